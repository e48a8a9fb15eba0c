from django.contrib import admin
from django.contrib.staticfiles.storage import staticfiles_storage
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="lobby")),
    path("", include("chat.urls")),
    path("admin/", admin.site.urls),
    path("favicon.ico", RedirectView.as_view(url=staticfiles_storage.url("chat/icon.svg"))),
    # runserver serves static files by itself; uvicorn and daphne do with this, while DEBUG is on.
    *staticfiles_urlpatterns(),
]
