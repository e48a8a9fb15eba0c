from django.urls import path
from django.views.generic import RedirectView

from chat import views

urlpatterns = [
    path("chat", views.lobby, name="lobby"),
    path("chat/", RedirectView.as_view(pattern_name="lobby")),
    path("chat/<room:room>", views.room, name="room"),
    path("chat/<room:room>/", RedirectView.as_view(pattern_name="room")),
    path("lines", views.post, name="post"),
]
