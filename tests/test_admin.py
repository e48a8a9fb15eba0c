"""The admin: everything to see, nothing to change, and no page that a million rows make slow."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.db.models.expressions import RawSQL
from django.test import Client
from django.urls import reverse
from django.utils.html import strip_tags
from pytest_django import DjangoAssertNumQueries, Settings

from channels_sqlite import admin
from channels_sqlite._options.settings import BACKEND
from channels_sqlite.models import LayerMembership, LayerMessage
from tests.projects import Project
from tests.rows import inbox_of, put, steps

pytestmark = pytest.mark.django_db(databases=["default", "channels"])

MESSAGES = reverse("admin:channels_sqlite_layermessage_changelist")
MEMBERSHIPS = reverse("admin:channels_sqlite_layermembership_changelist")


@pytest.fixture
def admin_user(db: None) -> User:
    """pytest-django's, without a password, which would take longer to hash than a test to run."""
    user: User = User.objects.create_superuser("admin")
    return user


def send(channel: str | None = "worker", content: Any = None, **fields: Any) -> LayerMessage:
    """A message in the table, sent now."""
    body = msgpack.packb(content or {"type": "chat.message"})
    put(connections["channels"].connection, channel or "in!", body, channel=channel, **fields)
    message: LayerMessage = LayerMessage.objects.latest("pk")
    return message


def join(
    group: str, channel: str = "in!a", expires_in: float = 60, **fields: Any
) -> LayerMembership:
    fields |= {"inbox": inbox_of(channel), "expires_at": time.time() + expires_in}
    member: LayerMembership = LayerMembership.objects.create(
        group=group, channel=channel, joined_after=0, **fields
    )
    return member


def listed(client: Client, url: str, **query: str) -> list[int]:
    """The ids of the rows in a list, in its order."""
    response = client.get(url, query)
    assert response.status_code == 200
    return [row.pk for row in response.context["cl"].result_list]


def page(client: Client, row: LayerMessage | LayerMembership) -> str:
    """The page of one row."""
    kind = row._meta.model_name
    response = client.get(reverse(f"admin:channels_sqlite_{kind}_change", args=[row.pk]))
    assert response.status_code == 200
    return response.content.decode()


# To look at


def test_messages_are_listed_the_newest_first_each_with_its_kind_and_what_is_in_it(
    admin_client: Client,
) -> None:
    first = send("a", {"type": "chat.message", "text": "Hello", "raw": b"\0"})
    second = send(None, group="chat")
    assert listed(admin_client, MESSAGES) == [second.pk, first.pk]
    content = admin_client.get(MESSAGES).content.decode()
    assert '<td class="field-kind">chat.message</td>' in content
    inside = "&#x27;Hello&#x27;, &#x27;raw&#x27;: b&#x27;\\x00&#x27;}"
    for decoded in (content, page(admin_client, first)):
        assert inside in decoded
    assert "chat (group)" in content
    for row, shown in ((first, f"{first.pk} to a"), (second, f"{second.pk} to chat")):
        assert shown in page(admin_client, row)
    assert "in!a in chat" in page(admin_client, join("chat"))


def test_a_message_that_is_nested_deep_is_shown(admin_client: Client) -> None:
    """The layer sends 500 levels, and programs that write rows by SQL may write more."""
    deep = [send(body=b'{"a":' * levels + b"1" + b"}" * levels) for levels in (1_000, 498)]
    assert listed(admin_client, MESSAGES) == [message.pk for message in reversed(deep)]
    assert all("<pre" in page(admin_client, message) for message in deep)


def test_a_long_name_is_short_in_a_list_and_whole_on_its_own_page(admin_client: Client) -> None:
    name = "chat." + "0123456789abcdef" * 4
    message, direct, member = send(None, group=name), send(name), join(name, name)
    for url in (MESSAGES, MEMBERSHIPS):
        content = admin_client.get(url).content.decode()
        table = content.partition('id="result_list"')[2].partition("</table>")[0]
        assert name not in strip_tags(table)
        assert strip_tags(table).count(name[:30]) == 2
        assert table.count(f'title="{name}"') == 2
    for row in (message, direct, member):
        assert name in page(admin_client, row)


def test_a_message_is_decoded_with_the_layers_serializer(
    admin_client: Client, settings: Settings
) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": BACKEND, "CONFIG": {"serializer_format": "json"}}
    }
    message = send(body=b'{"type": "from.json"}')
    for shown in (admin_client.get(MESSAGES).content.decode(), page(admin_client, message)):
        assert "from.json" in shown


@pytest.mark.parametrize(
    ("body", "layer"),
    [
        *((body, {"BACKEND": BACKEND}) for body in (b"", b"\xc1", b"\x01", b"{'type': 'half")),
        (None, {"BACKEND": "channels.layers.InMemoryChannelLayer"}),
        (None, {"BACKEND": BACKEND, "CONFIG": {"capacity": 0}}),
    ],
    ids=str,
)
def test_a_message_that_cannot_be_decoded_says_why(
    admin_client: Client, settings: Settings, body: bytes | None, layer: dict[str, Any]
) -> None:
    settings.CHANNEL_LAYERS = {"default": layer}
    message = send() if body is None else send(body=body)
    assert re.search(r"<pre[^>]*>\(.+\)</pre>", page(admin_client, message))
    assert listed(admin_client, MESSAGES) == [message.pk]


def test_a_large_body_is_read_on_its_own_page_only(admin_client: Client) -> None:
    message = send(content={"type": "large", "text": "x" * 2 * admin.SHOWN})
    assert "large" in page(admin_client, message)
    assert len(page(admin_client, message)) < 2 * admin.SHOWN
    response = admin_client.get(MESSAGES)
    assert "too large" in response.content.decode()
    assert f">{len(message.body)}<" in page(admin_client, message)
    [row] = response.context["cl"].result_list
    assert row.get_deferred_fields() == {"body"}
    assert row.previewed is None
    assert len(message.body) > admin.PREVIEWED


def test_times_are_shown_in_djangos_time_zone(admin_client: Client, settings: Settings) -> None:
    message = send(created_at=1_000_000_000.25)
    settings.TIME_ZONE = "Asia/Kathmandu"
    assert "2001-09-09 07:31:40.250+05:45" in page(admin_client, message)
    settings.USE_TZ = False
    local = datetime.fromtimestamp(1_000_000_000.25, UTC).astimezone()
    assert local.isoformat(" ", "milliseconds") in page(admin_client, message)


@pytest.mark.parametrize("column", ["created_at", "expires_at", "delivered_at"])
def test_a_row_of_others_does_not_break_the_list_nor_its_page(
    admin_client: Client, column: str
) -> None:
    row = send()
    for value in ("never", b"x", 1e300, 253402300799):  # the last second of year 9999
        LayerMessage.objects.update(**{column: RawSQL("%s", [value])})
        assert listed(admin_client, MESSAGES) == [row.pk]
        assert "chat.message" in page(admin_client, row)


def test_a_name_that_is_not_utf8_is_shown_and_nothing_taken_for_html(admin_client: Client) -> None:
    row = send(content={"type": "<script>alert(1)</script>"})
    LayerMessage.objects.update(channel=RawSQL("cast(x'ff41' as text)", []))
    for shown in (admin_client.get(MESSAGES).content.decode(), page(admin_client, row)):
        assert "\ufffdA" in shown
        assert "<script>alert(1)" not in shown
    LayerMessage.objects.filter(pk=send().pk).update(body=rb'{"type": "\ud800"}')
    LayerMessage.objects.filter(pk=send().pk).update(channel=RawSQL("x'01'", []))
    assert admin_client.get(MESSAGES).status_code == 200


# Not to change


@pytest.mark.parametrize("name", ["layermessage", "layermembership"])
def test_nothing_can_be_added_changed_or_deleted(admin_client: Client, name: str) -> None:
    row = send() if name == "layermessage" else join("chat")
    before = list(type(row).objects.values())
    of_all = reverse(f"admin:channels_sqlite_{name}_changelist")
    for url, data in (
        (f"{of_all}add/", {"group": "x"}),
        (f"{of_all}{row.pk}/change/", {"group": "x"}),
        (f"{of_all}{row.pk}/delete/", {"post": "yes"}),
    ):
        assert admin_client.post(url, data).status_code == 403
    delete = {"action": "delete_selected", "_selected_action": row.pk, "post": "yes"}
    admin_client.post(of_all, delete)
    assert list(type(row).objects.values()) == before


def test_who_has_no_permission_to_view_sees_nothing(client: Client) -> None:
    user = User.objects.create_user("staff", is_staff=True)
    client.force_login(user)
    assert client.get(MESSAGES).status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="view_layermessage"))
    assert client.get(MESSAGES).status_code == 200
    assert client.get(MEMBERSHIPS).status_code == 403


# Filters and search


def test_messages_are_filtered_by_state(admin_client: Client) -> None:
    messages = {
        "waiting": send(),
        "delivered": send(delivered_at=time.time()),
        "expired": send(expires_at=time.time() - 1),
    }
    for state, message in messages.items():
        assert listed(admin_client, MESSAGES, state=state) == [message.pk]
        assert f'<div class="readonly">{state}</div>' in page(admin_client, message)


def test_messages_are_filtered_by_age(admin_client: Client) -> None:
    now = time.time()
    second, minutes, hours, days = [
        send(created_at=now - age).pk for age in (1, 600, 7_200, 200_000)
    ]
    assert listed(admin_client, MESSAGES, age="past minute") == [second]
    assert listed(admin_client, MESSAGES, age="past hour") == [minutes, second]
    assert listed(admin_client, MESSAGES, age="past day") == [hours, minutes, second]
    assert listed(admin_client, MESSAGES, age="older") == [days]


def test_messages_are_filtered_by_channel_and_by_group(admin_client: Client) -> None:
    direct, other, to_group = send("a"), send("b"), send(None, group="chat")
    assert listed(admin_client, MESSAGES, channel="a") == [direct.pk]
    assert listed(admin_client, MESSAGES, channel="b") == [other.pk]
    assert listed(admin_client, MESSAGES, channel="nobody") == []
    for unknown in ({"state": "?"}, {"age": "0"}):
        assert len(listed(admin_client, MESSAGES, **unknown)) == 3
    assert listed(admin_client, MESSAGES, group="chat") == [to_group.pk]
    content = admin_client.get(MESSAGES).content.decode()
    for link in ("?channel=a", "?channel=b", "?group=chat"):
        assert f'href="{link}"' in content


def test_memberships_are_filtered_by_group_and_state(admin_client: Client) -> None:
    member, lapsed = join("chat", "jobs"), join("news", "jobs", expires_in=-1)
    left = join("chat", "in!b", left_after=7)
    of_a_process = join("news", "in!c", expires_in=-1)  # which keeps its own by its own clock
    by_group = [row.pk for row in (left, member, of_a_process, lapsed)]
    assert listed(admin_client, MEMBERSHIPS) == by_group
    assert listed(admin_client, MEMBERSHIPS, group="chat") == by_group[:2]
    states = {"member": {member, of_a_process}, "lapsed": {lapsed}, "left": {left}}
    for state, rows in states.items():
        assert set(listed(admin_client, MEMBERSHIPS, state=state)) == {row.pk for row in rows}
        for row in rows:
            assert row.channel in page(admin_client, row)
            assert f'<div class="readonly">{state}</div>' in page(admin_client, row)


def test_names_are_searched(admin_client: Client) -> None:
    direct, to_group = send("worker"), send(None, group="chat")
    member = join("chat", "in!xyz")
    assert listed(admin_client, MESSAGES, q="ork") == [direct.pk]
    assert listed(admin_client, MESSAGES, q="chat") == [to_group.pk]
    assert listed(admin_client, MEMBERSHIPS, q="xyz") == [member.pk]
    assert listed(admin_client, MESSAGES, q="100%_'") == []


# A million rows


def fill(rows: int) -> None:
    with connections["channels"].cursor() as cursor:
        cursor.execute(
            "insert into channels_sqlite_message"
            ' (inbox, channel, "group", body, created_at, expires_at, delivered_at)'
            " with recursive numbers (n) as (select 1 union all select n + 1 from numbers limit %s)"
            " select 'in!', null, 'chat', x'80', n, n + 60, n from numbers",
            [rows],
        )
        cursor.execute(
            'insert into channels_sqlite_membership ("group", inbox, channel, expires_at,'
            " joined_after) select 'chat', inbox, id, expires_at, 0 from channels_sqlite_message"
            " where true on conflict do nothing"
        )


QUERIES = [{}, {"p": "2"}, {"group": "chat"}, {"state": "delivered"}, {"state": "member"}]


@pytest.mark.parametrize("url", [MESSAGES, MEMBERSHIPS])
def test_a_list_costs_no_more_in_a_longer_table(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(admin, "MOST_LISTED", 500)
    monkeypatch.setattr(admin, "NEWEST", 100)
    costs: list[list[int]] = []
    for rows in (600, 4_000):
        fill(rows)
        raw = connections["channels"].connection
        lists = [partial(listed, admin_client, url, **query) for query in QUERIES]
        costs.append([steps(raw, each) for each in lists])
    assert all(long < 1.5 * short for short, long in zip(*costs, strict=True)), costs


def test_a_list_takes_as_many_queries_for_many_rows_as_for_one(
    admin_client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """And a page as few as it can."""
    for rows in (1, 100):
        fill(rows)
        with django_assert_num_queries(4, connection=connections["channels"]):
            listed(admin_client, MESSAGES)
        with django_assert_num_queries(3, connection=connections["channels"]):
            listed(admin_client, MEMBERSHIPS)
    message, member = send(), join("news")
    for row, queries in ((message, 2), (member, 1)):
        with django_assert_num_queries(queries, connection=connections["channels"]):
            page(admin_client, row)


def test_pages_are_turned_to_the_last_row(admin_client: Client) -> None:
    fill(120)
    newest = list(LayerMessage.objects.order_by("-pk").values_list("pk", flat=True))
    assert listed(admin_client, MESSAGES) == newest[:50]
    assert listed(admin_client, MESSAGES, p="3") == newest[100:]
    LayerMessage.objects.filter(pk__in=newest[1:-1]).delete()  # rows are counted, not ids
    assert len(listed(admin_client, MESSAGES)) == 2
    assert "2 messages" in admin_client.get(MESSAGES).content.decode()


def test_it_says_so_if_there_are_more_rows_than_it_lists(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "MOST_LISTED", 100)
    for more in (100, 1):
        fill(more)
        for url in (MESSAGES, MEMBERSHIPS):
            content = admin_client.get(url).content.decode()
            assert re.search(r"\b100 m", content)
            assert ("The first 100 are listed" in content) is (more == 1)
            assert len(listed(admin_client, url, p="2")) == 50
            assert admin_client.get(url, {"p": "3"}).status_code == 302


# Without the admin


def test_nothing_of_it_is_loaded_where_the_admin_is_not_installed(tmp_path: Path) -> None:
    admins = "{'django.contrib.admin', 'channels_sqlite.admin'}"
    code = f"import sys; assert not {admins} & {{*sys.modules}}"
    Project(tmp_path).manage("shell", "--command", code)
