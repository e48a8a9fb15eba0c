"""What waits and who listens, to look at: nothing can be changed here.

Loaded by `django.contrib.admin`, where that is installed. A busy layer keeps a day of messages, a
million of them perhaps: no page may count or sort a table, nor read large bodies for a list.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from pprint import pformat
from typing import TYPE_CHECKING, Any, ClassVar, cast

from channels.layers import channel_layers
from django.conf import settings
from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Case, F, Max, Min, Model, Q, QuerySet, When
from django.db.models.functions import Length
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import get_current_timezone

from .exceptions import ChannelsSqliteError
from .layers import SqliteChannelLayer
from .models import Membership, Message
from .settings import configured_layers

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Model]
    ModelPaginator = Paginator[Model]
else:
    ModelAdmin = admin.ModelAdmin
    ModelPaginator = Paginator

MOST_COUNTED = 10_000  # rows that match a filter; beyond that, nobody turns pages
NEWEST = 1_000  # rows whose names a filter offers
OFFERED = 20  # names, the most frequent ones
PREVIEWED = 4_096  # bytes of a body that a list decodes
PREVIEW = 100  # characters
SHOWN = 100_000  # characters of a body


class Estimate(ModelPaginator):
    """Counts no more than it must: the list is as long as the ids say, or as MOST_COUNTED allows.

    Never less than there is, up to MOST_COUNTED: the admin shows a list that fits one page whole.
    """

    @cached_property
    def count(self) -> int:
        rows = cast("QuerySet[Model]", self.object_list)
        if rows.query.where:
            return int(rows.order_by().values("pk")[:MOST_COUNTED].count())
        # Two looks, because SQLite reads the whole table for a minimum and a maximum in one.
        last = rows.aggregate(id=Max("pk"))["id"]
        return 0 if last is None else int(last - rows.aggregate(id=Min("pk"))["id"] + 1)


class ReadOnlyAdmin(ModelAdmin):
    """A table to look at, however long it is."""

    paginator = Estimate
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each facet is a count of the table
    list_per_page = 50
    sortable_by = ()

    # Django's names, because others may call them with keywords.

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        return False

    def has_change_permission(
        self,
        request: HttpRequest,  # noqa: ARG002
        obj: Model | None = None,  # noqa: ARG002
    ) -> bool:
        return False

    def has_delete_permission(
        self,
        request: HttpRequest,  # noqa: ARG002
        obj: Model | None = None,  # noqa: ARG002
    ) -> bool:
        return False


# Filters


class NameFilter(admin.SimpleListFilter):
    """A choice of names: those most frequent among the newest rows."""

    parameter_name: str

    def lookups(
        self, _request: HttpRequest, model_admin: admin.ModelAdmin[Any]
    ) -> list[tuple[str, str]]:
        newest = model_admin.model._default_manager.order_by("-pk")[:NEWEST]
        names = Counter(newest.values_list(self.parameter_name, flat=True))
        del names[None]
        offered = {name for name, _ in names.most_common(OFFERED)}
        if chosen := self.value():
            offered.add(chosen)
        return [(name, name) for name in sorted(offered)]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if chosen := self.value():
            queryset = queryset.filter(**{self.parameter_name: chosen})
        return queryset


class ChannelFilter(NameFilter):
    title = "channel"
    parameter_name = "channel"


class GroupFilter(NameFilter):
    title = "group"
    parameter_name = "group"


class ChoiceFilter(admin.SimpleListFilter):
    """A choice of conditions, which are told the time."""

    conditions: ClassVar[dict[str, Callable[[float], Q]]]

    def lookups(
        self, _request: HttpRequest, _model_admin: admin.ModelAdmin[Any]
    ) -> list[tuple[str, str]]:
        return [(name, name.capitalize()) for name in self.conditions]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        condition = self.conditions.get(self.value() or "")
        if condition is not None:
            queryset = queryset.filter(condition(time.time()))
        return queryset


class MessageStateFilter(ChoiceFilter):
    title = "state"
    parameter_name = "state"
    conditions: ClassVar = {
        "waiting": lambda now: Q(delivered_at=None, expires_at__gt=now),
        "delivered": lambda _now: Q(delivered_at__isnull=False),
        "expired": lambda now: Q(delivered_at=None, expires_at__lte=now),
    }


class AgeFilter(ChoiceFilter):
    title = "age"
    parameter_name = "age"
    conditions: ClassVar = {
        "past minute": lambda now: Q(created_at__gt=now - 60),
        "past hour": lambda now: Q(created_at__gt=now - 3_600),
        "past day": lambda now: Q(created_at__gt=now - 86_400),
        "older": lambda now: Q(created_at__lte=now - 86_400),
    }


class MembershipStateFilter(ChoiceFilter):
    title = "state"
    parameter_name = "state"
    conditions: ClassVar = {
        "current": lambda now: Q(expires_at__gt=now),
        "lapsed": lambda now: Q(expires_at__lte=now),
    }


# The pages


@admin.register(Message)
class MessageAdmin(ReadOnlyAdmin):
    ordering = ("-id",)
    list_display = ("id", "channel", "group", "preview", "size", "created", "state")
    list_filter = (MessageStateFilter, AgeFilter, ChannelFilter, GroupFilter)
    search_fields = ("channel", "group", "inbox")
    search_help_text = "A part of a channel's, a group's or an inbox's name"
    fields = readonly_fields = (
        *("id", "channel", "group", "inbox", "state"),
        *("created", "expires", "delivered", "size", "content"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = (
            super()
            .get_queryset(request)
            .defer("body")
            .annotate(size=Length("body"))
            .annotate(previewed=Case(When(size__lte=PREVIEWED, then=F("body"))))
        )
        return rows

    # `row` is a Message, annotated with its `size` and, if that is small, its body, `previewed`.

    @admin.display(description="size in bytes")
    def size(self, row: Any) -> int:
        return int(row.size)

    @admin.display(description="message")
    def preview(self, row: Any) -> str:
        if row.previewed is None:
            return "…"
        text = " ".join(decoded(row, row.previewed).split())
        return text if len(text) <= PREVIEW else f"{text[:PREVIEW]}…"

    @admin.display(description="message")
    def content(self, row: Any) -> SafeString:
        text = decoded(row, row.body)
        if len(text) > SHOWN:
            text = f"{text[:SHOWN]}… ({len(text) - SHOWN} characters more)"
        return format_html('<pre style="white-space: pre-wrap">{}</pre>', text)

    @admin.display
    def state(self, row: Any) -> str:
        if row.delivered_at is not None:
            return "delivered"
        expires_at = row.expires_at
        # SQLite has what is no number after all numbers.
        waits = not isinstance(expires_at, (float, int)) or expires_at > time.time()
        return "waiting" if waits else "expired"

    @admin.display
    def created(self, row: Any) -> str:
        return moment(row.created_at)

    @admin.display
    def expires(self, row: Any) -> str:
        return moment(row.expires_at)

    @admin.display
    def delivered(self, row: Any) -> str:
        return "" if row.delivered_at is None else moment(row.delivered_at)


@admin.register(Membership)
class MembershipAdmin(ReadOnlyAdmin):
    ordering = ("group", "inbox", "joined_after", "expires_at", "channel")  # as in the index
    list_display = ("group", "channel", "expires")
    list_filter = (MembershipStateFilter, GroupFilter)
    search_fields = ("group", "channel", "inbox")
    search_help_text = "A part of a group's, a channel's or an inbox's name"
    fields = ("id", "group", "channel", "inbox", "expires", "joined_after", "renewed_after")
    readonly_fields = fields

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """Those that lapse first, when that is the question: an index has that order too."""
        return ("expires_at", *self.ordering) if "state" in request.GET else self.ordering

    @admin.display
    def expires(self, row: Any) -> str:
        return moment(row.expires_at)


# Readable


def decoded(row: Any, body: object) -> str:
    """The message in a row's body, as Python would write it; or why it cannot be read."""
    try:
        # The first, for it is its database that the router reads.
        layer = next((channel_layers[name] for name in configured_layers()), None)
        if not isinstance(layer, SqliteChannelLayer):
            return "(no layer of channels_sqlite is there to read it)"
        return pformat(
            layer.codec.decode(body, row.channel or "", row.group), width=100, sort_dicts=False
        )
    except ChannelsSqliteError as error:
        return f"({error})"


def moment(seconds: float) -> str:
    """Unix seconds as a date and time, in Django's time zone, to the millisecond."""
    try:
        utc = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError, TypeError, ValueError):
        return str(seconds)  # no time at all, but a row that anybody may write
    local = utc.astimezone(get_current_timezone() if settings.USE_TZ else None)
    return local.isoformat(" ", "milliseconds")
