"""The chat's tables beside those of the channel layer, which the admin finds by itself."""

from django.contrib import admin

from chat.models import Line, Visit

admin.site.register([Line, Visit])
