"""The tables, as SQL: what the migration makes, and what a private database in memory is made of.

Nothing but strings, and no imports: the asynchronous half reads them without loading the ORM.
"""

MESSAGE = "channels_sqlite_message"
MEMBERSHIP = "channels_sqlite_membership"
SEQUENCE = "channels_sqlite_sequence"

WAITING = "channels_sqlite_waiting"
DELIVERED = "channels_sqlite_delivered"
MEMBER = "channels_sqlite_member"
MEMBER_READS = "channels_sqlite_member_reads"
MEMBER_EXPIRES = "channels_sqlite_member_expires"
MEMBER_LEFT = "channels_sqlite_member_left"

EPOCH = ""
"""The inbox of no channel. Its sequence is a random number, and another one once the tables were
emptied: what a reader knows of ids is worth nothing then."""

CLIENT = "substr(inbox, -13, 12)"
"""In SQL, the client part of a process-local inbox, `prefix.CLIENT!`: whose bell it is."""

TABLES = {
    MESSAGE: f"""\
create table if not exists {MESSAGE} (
    id integer not null primary key autoincrement,
    inbox varchar(100) not null,
    channel varchar(100),
    "group" varchar(100),
    body blob not null,
    created_at real not null,
    expires_at real not null,
    delivered_at real
)""",
    MEMBERSHIP: f"""\
create table if not exists {MEMBERSHIP} (
    id integer not null primary key autoincrement,
    "group" varchar(100) not null,
    inbox varchar(100) not null,
    channel varchar(100) not null,
    expires_at real not null,
    joined_after bigint not null,
    left_after bigint
)""",
    SEQUENCE: f"""\
create table if not exists {SEQUENCE} (
    inbox varchar(100) not null primary key,
    seq bigint not null
) without rowid""",
}

# The two of messages are partial, so that a day of delivered messages costs a reader nothing. A
# group's readers find all that they ask of a member in MEMBER_READS.
INDEXES = {
    WAITING: f"""\
create index if not exists {WAITING}
on {MESSAGE} (inbox, id, expires_at) where delivered_at is null""",
    DELIVERED: f"""\
create index if not exists {DELIVERED}
on {MESSAGE} (delivered_at) where delivered_at is not null""",
    MEMBER: f"""\
create unique index if not exists {MEMBER}
on {MEMBERSHIP} (channel, "group") where left_after is null""",
    MEMBER_READS: f"""\
create index if not exists {MEMBER_READS}
on {MEMBERSHIP} ("group", inbox, joined_after, left_after, expires_at, channel)""",
    MEMBER_EXPIRES: f"""\
create index if not exists {MEMBER_EXPIRES}
on {MEMBERSHIP} (expires_at)""",
    MEMBER_LEFT: f"""\
create index if not exists {MEMBER_LEFT}
on {MEMBERSHIP} (inbox, left_after) where left_after is not null""",
}

# A trigger, so that every writer bumps the sequence: the ORM and the sqlite3 shell too.
# `max(seq + 1, ...)`, because a reader that gives a message back raises the sequence without a new
# row, and a sequence that stands still or falls is a lost wake.
TRIGGERS = {
    "channels_sqlite_message_bump": f"""\
create trigger if not exists channels_sqlite_message_bump
after insert on {MESSAGE}
begin
    insert into {SEQUENCE} (inbox, seq)
    values (new.inbox, new.id)
    on conflict (inbox) do update
    set seq = max(seq + 1, excluded.seq);
    insert into {SEQUENCE} (inbox, seq)
    values ('{EPOCH}', random())
    on conflict (inbox) do nothing;
end""",
}

# SQL is an API: who can open the file sends a message with one INSERT into a view, with its body as
# JSON text:
#
#     insert into channels_sqlite_send values ('mail', '{"type": "mail.send", "to": "ann"}');
#     insert into channels_sqlite_group_send values ('chat', '{"type": "chat.line", "text": "Hi"}');
#
# It is part of the transaction that it is in. The INSERT refuses what the layer refuses, with an
# error: a bad name, a full channel, a message that is no JSON object. As with the layer, a group's
# full inbox misses the message, and nobody is told.

SEND = "channels_sqlite_send"
GROUP_SEND = "channels_sqlite_group_send"

# The file does not know a project's CONFIG, so these are the layer's defaults. A table of settings
# would be a second place to set them in; who needs others may insert into the message table itself.
SQL_CAPACITY = 100
SQL_EXPIRY = 60  # seconds

# Nothing to select: what waits stands in the message table.
VIEWS = {
    SEND: f"""\
create view if not exists {SEND} (channel, message) as
select null, null where 0""",
    GROUP_SEND: f"""\
create view if not exists {GROUP_SEND} ("group", message) as
select null, null where 0""",
}

# Unix seconds; unixepoch('subsec') needs SQLite 3.42.
_NOW = "(julianday('now') - 2440587.5) * 86400.0"

# length() and glob read up to a NUL. To count bytes would not do: UTF-16 has two for a letter.
_BAD_NAME = """\
typeof({name}) <> 'text'
        or instr({name}, char(0))
        or length({name}) not between 1 and 99"""

# A case, because json_type fails where the JSON is bad. Before SQLite 3.45 json_valid reads up to
# a NUL.
_BAD_MESSAGE = """\
case
        when typeof(new.message) <> 'text' or instr(new.message, char(0)) then 1
        when json_valid(new.message) then json_type(new.message) <> 'object'
        else 1
    end"""

# json() without its white space, so that a body that begins with a brace is JSON: no dict of
# msgpack does. A BLOB, because text that is not UTF-8 would fail in whoever reads it. It has the
# encoding of the file, which the serializers tell from UTF-8.
_BODY = "cast(json(new.message) as blob)"

_INBOX = "substr(new.channel, 1, coalesce(nullif(instr(new.channel, '!'), 0), 100))"

COUNT_WAITING = f"""
    select count(*) from {MESSAGE} as waiting indexed by {WAITING}
    where waiting.inbox = %s and waiting.delivered_at is null and waiting.expires_at > %s
"""
"""How many messages wait in an inbox at a time."""

# The checks and the insert are one statement, which holds the write lock from its beginning.
VIEW_TRIGGERS = {
    f"{SEND}_insert": f"""\
create trigger if not exists {SEND}_insert
instead of insert on {SEND}
begin
    select raise(abort, '{SEND}: a channel name has 1 to 99 ASCII letters, digits, hyphens, \
underscores and periods, and at most one exclamation mark, not at its beginning')
    where {_BAD_NAME.format(name="new.channel")}
        or new.channel glob '*[^-a-zA-Z0-9_.!]*'
        or new.channel glob '!*'
        or new.channel glob '*!*!*';
    select raise(abort, '{SEND}: the message must be the text of a JSON object')
    where {_BAD_MESSAGE};
    select raise(abort, '{SEND}: the channel is full, {SQL_CAPACITY} messages wait')
    where (
        {COUNT_WAITING % (_INBOX, _NOW)}
    ) >= {SQL_CAPACITY};
    insert into {MESSAGE} (inbox, channel, body, created_at, expires_at)
    values ({_INBOX}, new.channel, {_BODY}, {_NOW}, {_NOW} + {SQL_EXPIRY});
end""",
    f"{GROUP_SEND}_insert": f"""\
create trigger if not exists {GROUP_SEND}_insert
instead of insert on {GROUP_SEND}
begin
    select raise(abort, '{GROUP_SEND}: a group name has 1 to 99 ASCII letters, digits, hyphens, \
underscores and periods')
    where {_BAD_NAME.format(name='new."group"')}
        or new."group" glob '*[^-a-zA-Z0-9_.]*';
    select raise(abort, '{GROUP_SEND}: the message must be the text of a JSON object')
    where {_BAD_MESSAGE};
    insert into {MESSAGE} (inbox, "group", body, created_at, expires_at)
    select inbox, new."group", {_BODY}, {_NOW}, {_NOW} + {SQL_EXPIRY}
    from (
        select distinct inbox from {MEMBERSHIP} indexed by {MEMBER_READS}
        where "group" = new."group" and left_after is null
        and (expires_at > {_NOW} or substr(inbox, -1) = '!')
    ) as recipient
    where (
        {COUNT_WAITING % ("recipient.inbox", _NOW)}
    ) < {SQL_CAPACITY};
end""",
}

EVERYTHING = {**TABLES, **INDEXES, **TRIGGERS, **VIEWS, **VIEW_TRIGGERS}
"""All of it by name, in an order in which it can be made; each makes only what is missing."""
