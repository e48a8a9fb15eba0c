"""Filters of the admin's lists; see admin.py."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Case, CharField, Q, QuerySet, Value, When
from django.http import HttpRequest

NEWEST = 1_000  # rows whose names a filter offers
OFFERED = 20  # names, the most frequent ones

OF_A_PROCESS = Q(inbox__endswith="!")
# Not `left_after=None`: SQLite would take the index of the unique constraint, and sort all members.
NOT_LEFT = ~Q(left_after__gte=0)


class NameFilter(admin.SimpleListFilter):
    """A choice of names: those most frequent among the newest rows."""

    parameter_name: str

    def lookups(
        self, _request: HttpRequest, model_admin: admin.ModelAdmin[Any]
    ) -> list[tuple[str, str]]:
        newest = model_admin.model._default_manager.order_by("-pk")[:NEWEST]
        names = Counter(newest.values_list(self.parameter_name, flat=True))
        del names[None]
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

    def lookups(
        self, _request: HttpRequest, _model_admin: admin.ModelAdmin[Any]
    ) -> list[tuple[str, str]]:
        return [(name, name.capitalize()) for name in self.conditions]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        condition = self.conditions.get(self.value() or "")
        return queryset.filter(condition(time.time())) if condition else queryset


class StateFilter(ChoiceFilter):
    title = parameter_name = "state"


class MessageStateFilter(StateFilter):
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


class MembershipStateFilter(StateFilter):
    """The layer's own rule: a living process ends the memberships of its own channels itself."""

    conditions: ClassVar = {
        "member": lambda now: NOT_LEFT & (Q(expires_at__gt=now) | OF_A_PROCESS),
        "lapsed": lambda now: NOT_LEFT & Q(expires_at__lte=now) & ~OF_A_PROCESS,
        "left": lambda _now: Q(left_after__isnull=False),
    }
