"""Filters of the admin's lists; see admin.py."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Q, QuerySet
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
    """The layer's own rule: a living process ends the memberships of its own channels itself."""

    title = "state"
    parameter_name = "state"
    conditions: ClassVar = {
        "member": lambda now: NOT_LEFT & (Q(expires_at__gt=now) | OF_A_PROCESS),
        "lapsed": lambda now: NOT_LEFT & Q(expires_at__lte=now) & ~OF_A_PROCESS,
        "left": lambda _now: Q(left_after__isnull=False),
    }
