"""Messages and memberships to look at: nothing can be changed here.

Loaded by `django.contrib.admin`, where that is installed. A busy layer keeps a day of messages, a
million of them perhaps: no page may count or sort all of a table, nor read large bodies for a list.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pprint import pformat
from typing import TYPE_CHECKING, Any, ClassVar, cast

from channels.layers import channel_layers
from django.conf import settings
from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Case, CharField, F, Model, Q, QuerySet, Value, When
from django.db.models.functions import Length
from django.http import HttpRequest, HttpResponse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.timezone import get_current_timezone

from ._options.settings import configured_layers
from .exceptions import ChannelsSqliteError
from .models import LayerMembership, LayerMessage

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Model]
    ModelPaginator = Paginator[Model]
else:
    ModelAdmin = admin.ModelAdmin
    ModelPaginator = Paginator

MOST_LISTED = 10_000  # rows; nobody turns more pages, and to count a million takes a while
PREVIEWED = 16_384  # bytes of a body that a list decodes
PREVIEW = 200  # characters
NAME = 40  # characters of a channel's or group's name in a list
SHOWN = 100_000  # characters of a body
NEWEST = 1_000  # rows whose names a filter offers
OFFERED = 20  # names, the most frequent ones


# Filters

OF_A_PROCESS = Q(inbox__endswith="!")
# Not `left_after=None`: SQLite would take the index of the unique constraint, and sort all members.
NOT_LEFT = ~Q(left_after__gte=0)


class NameFilter(admin.SimpleListFilter):
    """A choice of names: those most frequent among the newest rows."""

    parameter_name: str

    def lookups(self, _request: HttpRequest, model_admin: ModelAdmin) -> list[tuple[str, str]]:
        newest = model_admin.model._default_manager.order_by("-pk")[:NEWEST]
        found = newest.values_list(self.parameter_name, flat=True)
        names = Counter(name for name in found if isinstance(name, str))  # others write anything
        offered = {name for name, _ in names.most_common(OFFERED)} | {self.value() or ""} - {""}
        return [(name, name) for name in sorted(offered)]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = self.value()
        return queryset.filter(**{self.parameter_name: chosen}) if chosen else queryset


class ChannelFilter(NameFilter):
    title = parameter_name = "channel"


class GroupFilter(NameFilter):
    title = parameter_name = "group"


class ChoiceFilter(admin.SimpleListFilter):
    """A choice of conditions, which are told the time."""

    conditions: ClassVar[dict[str, Callable[[float], Q]]]

    @classmethod
    def choice(cls) -> Case:
        """The name of a row's condition, the first one that holds, in SQL."""
        now = time.time()
        whens = (When(of(now), then=Value(name)) for name, of in cls.conditions.items())
        return Case(*whens, output_field=CharField())

    def lookups(self, _request: HttpRequest, _model_admin: ModelAdmin) -> list[tuple[str, str]]:
        return [(name, name.capitalize()) for name in self.conditions]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        condition = self.conditions.get(self.value() or "")
        return queryset.filter(condition(time.time())) if condition else queryset


class MessageStateFilter(ChoiceFilter):
    title = parameter_name = "state"
    conditions: ClassVar = {
        "waiting": lambda now: Q(delivered_at=None, expires_at__gt=now),
        "delivered": lambda _now: Q(delivered_at__isnull=False),
        "expired": lambda now: Q(delivered_at=None, expires_at__lte=now),
    }


class AgeFilter(ChoiceFilter):
    title = parameter_name = "age"
    conditions: ClassVar = {
        "past minute": lambda now: Q(created_at__gt=now - 60),
        "past hour": lambda now: Q(created_at__gt=now - 3_600),
        "past day": lambda now: Q(created_at__gt=now - 86_400),
        "older": lambda now: Q(created_at__lte=now - 86_400),
    }


class MembershipStateFilter(ChoiceFilter):
    """The layer's own rule: a living process ends the memberships of its own channels itself."""

    title = parameter_name = "state"
    conditions: ClassVar = {
        "member": lambda now: NOT_LEFT & (Q(expires_at__gt=now) | OF_A_PROCESS),
        "lapsed": lambda now: NOT_LEFT & Q(expires_at__lte=now) & ~OF_A_PROCESS,
        "left": lambda _now: Q(left_after__isnull=False),
    }


# Lists


class Newest(ModelPaginator):
    """Counts exactly, up to MOST_LISTED rows, and has no pages beyond these."""

    @cached_property
    def found(self) -> int:
        rows = cast("QuerySet[Model]", self.object_list)
        return int(rows.order_by().values("pk")[: MOST_LISTED + 1].count())

    @cached_property
    def count(self) -> int:
        return min(self.found, MOST_LISTED)


class ReadOnlyAdmin(ModelAdmin):
    """A table to look at, however long it is; the first filter says in which states rows are."""

    paginator = Newest
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each facet is a count of the table
    list_per_page = 50
    sortable_by = ()

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Django's page, which says so if there are rows that it does not list."""
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None) or {}
        if "cl" in context and context["cl"].paginator.found > MOST_LISTED:
            words = f"The first {MOST_LISTED:,} are listed. Filter or search to see others."
            context["subtitle"] = words
        return response

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Rows with their state."""
        states = cast("type[ChoiceFilter]", self.list_filter[0])
        rows: QuerySet[Any] = super().get_queryset(request).annotate(state=states.choice())
        return rows

    @admin.display
    def state(self, row: Any) -> str:
        return str(row.state)

    @admin.display
    def expires(self, row: Any) -> str:
        return moment(row.expires_at)

    # Django's names, because others may call it with keywords.
    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002
        return False

    has_add_permission = has_delete_permission = has_change_permission


# The pages


@admin.register(LayerMessage)
class MessageAdmin(ReadOnlyAdmin):
    ordering = ("-id",)
    list_display = ("id", "sent", "state", "to", "kind", "preview")
    list_filter = (MessageStateFilter, AgeFilter, ChannelFilter, GroupFilter)
    search_fields = ("channel", "group", "inbox")
    search_help_text = "A part of a channel's, a group's or an inbox's name"
    fields = readonly_fields = (
        *("id", "channel", "group", "inbox", "state"),
        *("sent", "expires", "delivered", "size", "content"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Rows without their bodies, but with their sizes, and `previewed` if a body is small."""
        rows = super().get_queryset(request).defer("body").annotate(size=Length("body"))
        rows = rows.annotate(previewed=Case(When(size__lte=PREVIEWED, then=F("body"))))
        return cast("QuerySet[Any]", rows)

    @admin.display(description="bytes")
    def size(self, row: Any) -> int:
        return int(row.size)

    @admin.display
    def to(self, row: Any) -> SafeString:
        return short(row.group, " (group)") if row.channel is None else short(row.channel)

    @admin.display(description="type")
    def kind(self, row: Any) -> str:
        message = decoded(row)
        type_ = str(message.get("type", "")) if isinstance(message, dict) else ""
        return Truncator(type_.encode(errors="backslashreplace").decode()).chars(NAME)

    @admin.display(description="message")
    def preview(self, row: Any) -> SafeString:
        message = "(too large for a list)" if row.previewed is None else decoded(row)
        if isinstance(message, dict):
            message = {key: value for key, value in message.items() if key != "type"}
        text = Truncator(written(message, repr)).chars(PREVIEW)
        return format_html('<div style="min-width: 24em; overflow-wrap: anywhere">{}</div>', text)

    @admin.display(description="message")
    def content(self, row: Any) -> SafeString:
        pretty = partial(pformat, width=100, sort_dicts=False)
        text = written(decoded(row, whole=True), pretty, repr)
        if len(text) > SHOWN:
            text = f"{text[:SHOWN]}… ({len(text) - SHOWN} characters more)"
        return format_html(
            '<pre style="white-space: pre-wrap; overflow-wrap: anywhere">{}</pre>', text
        )

    @admin.display
    def sent(self, row: Any) -> str:
        return moment(row.created_at)

    @admin.display(description="delivered (noted within a second)")
    def delivered(self, row: Any) -> str:
        return "" if row.delivered_at is None else moment(row.delivered_at)


@admin.register(LayerMembership)
class MembershipAdmin(ReadOnlyAdmin):
    ordering = ("group", "inbox", "joined_after", "left_after", "expires_at", "channel")  # an index
    list_display = ("in_group", "member", "expires", "state")
    list_filter = (MembershipStateFilter, GroupFilter)
    search_fields = ("group", "channel", "inbox")
    search_help_text = "A part of a group's, a channel's or an inbox's name"
    fields = readonly_fields = (
        *("id", "group", "channel", "inbox", "state"),
        *("expires", "joined_after", "left_after"),
    )

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """Begin with the first to lapse, if that is the question: an index has that order, too."""
        return ("expires_at", "id") if "state" in request.GET else self.ordering

    @admin.display(description="group")
    def in_group(self, row: Any) -> SafeString:
        return short(row.group)

    @admin.display(description="channel")
    def member(self, row: Any) -> SafeString:
        return short(row.channel)


# Readable


def short(name: str, note: str = "") -> SafeString:
    """A name for a list, which leaves room for the other columns; the tooltip is all of it."""
    return format_html(
        '<div title="{}" style="min-width: 12em; overflow-wrap: anywhere">{}{}</div>',
        *(name, Truncator(name).chars(NAME), note),
    )


def decoded(row: Any, *, whole: bool = False) -> object:
    """The message in a row, or in words why it cannot be read; a large one only if `whole`."""
    name = next(iter(configured_layers()), None)  # the first: the router reads its rows
    if name is None:
        return "(no layer of channels_sqlite is there to read it)"
    body = row.body if whole else row.previewed
    try:
        layer: Any = channel_layers[name]
        return layer.codec.decode(body, row.channel or "", row.group)
    except ChannelsSqliteError as error:
        return f"({error})"


def written(message: object, *writers: Callable[[object], str]) -> str:
    """A message, by the first of the writers that can write one so deep; words as they are."""
    if isinstance(message, str):
        return message
    for write in writers:
        with suppress(RecursionError):
            return write(message)
    return "(nested too deep to be shown)"


def moment(seconds: float) -> str:
    """Unix seconds as a date and time, in Django's time zone, to the millisecond."""
    try:
        utc = datetime.fromtimestamp(seconds, UTC)
        local = utc.astimezone(get_current_timezone() if settings.USE_TZ else None)
    except (OverflowError, OSError, TypeError, ValueError):
        return str(seconds)  # no time at all, but a row that anybody may write
    return local.isoformat(" ", "milliseconds")
