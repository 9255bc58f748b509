import threading
import weakref

from beam_quad.artifacts import cache


class Model:
    """Can be referred to weakly."""


def test_the_model_before_is_gone_when_the_next_is_made():
    before = weakref.ref(cache.cached_model("first", Model))
    assert cache.cached_model("first", Model) is before()
    seen = []

    def make():
        seen.append(before())
        return Model()

    cache.cached_model("second", make)
    assert seen == [None]


def test_models_come_and_go_and_their_proxy_stays(monkeypatch):
    loaded = []
    monkeypatch.setattr(cache, "load_proxy", lambda spec: loaded.append(spec) or Model())
    for key in ("pilot", "rounds", "pilot"):
        cache.cached_model(key, lambda: cache.cached_proxy("spec of this test"))
    assert loaded == ["spec of this test"]


def test_a_model_is_made_once_for_all_threads():
    made, barrier = [], threading.Barrier(4)

    def get():
        barrier.wait()
        cache.cached_model("shared", lambda: made.append(1) or Model())

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
