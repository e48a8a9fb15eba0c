"""The names of the tables, and the triggers Django's migrations cannot express.

Nothing but strings, and no imports: the asynchronous half reads them without loading the ORM.
"""

MESSAGE = "channels_sqlite_message"
MEMBERSHIP = "channels_sqlite_membership"
SEQUENCE = "channels_sqlite_sequence"

# A trigger rather than a statement of the store, so that every writer bumps the sequence: the ORM
# and the sqlite3 shell too. `max(seq + 1, ...)`, because a reader that gives a row back raises
# the sequence without a new row, and a sequence that stands still or falls is a lost wake.
TRIGGERS = {
    "channels_sqlite_message_bump": """\
create trigger if not exists channels_sqlite_message_bump
after insert on channels_sqlite_message
begin
    insert into channels_sqlite_sequence (inbox, seq)
    values (new.inbox, new.id)
    on conflict (inbox) do update
    set seq = max(seq + 1, excluded.seq);
end""",
}
