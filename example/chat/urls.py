from django.urls import path

from chat import views

urlpatterns = [
    path("chat", views.lobby, name="lobby"),
    path("chat/<room:room>", views.room, name="room"),
    path("lines", views.post, name="post"),
]
