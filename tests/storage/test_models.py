"""Models, lists and query files that lie in a store."""

import pytest

from beam_quad.artifacts import files
from beam_quad.artifacts.models import fetch_model
from beam_quad.embedding.sources import source_fingerprint
from beam_quad.embedding.spec import EmbedderSpec
from beam_quad.errors import UsageError
from beam_quad.gradients.checkpoints import content_fingerprint
from pipelines import quad


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    fetch_model.cache_clear()
    yield tmp_path / "home"
    fetch_model.cache_clear()


def test_whatever_a_command_names_may_lie_in_a_store(world, root, upload, hub_folder, capsys):
    upload(root)
    for path in (world.root / "proxy").iterdir():
        files.write_once(f"{root}/proxy/{path.name}", path.read_bytes())
    files.write_once(f"{root}/lists/optouts.txt", b"part-0.parquet#0\n")
    flags = {"input": f"{root}/corpus", "query": f"{root}/query", "proxy_model": f"{root}/proxy"}
    flags |= {"exclude": f"{root}/lists/*.txt", "decontaminate": f"{root}/query/*"}
    arguments = world.arguments(f"{root}/out", policy="perplexity", plan=True, **flags)
    assert quad.main(arguments) == 0
    said = capsys.readouterr().out
    assert "exclude   1 ids" in said
    assert "24 texts of" in said
    (folder,) = (hub_folder / "beam_quad").iterdir()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in (world.root / "proxy").iterdir()
    }


def test_a_model_in_a_store_has_the_fingerprint_of_its_folder(world, root, hub_folder):
    for path in (world.root / "proxy").iterdir():
        files.write_once(f"{root}/proxy/{path.name}", path.read_bytes())
    for fingerprint in (content_fingerprint, lambda name: source_fingerprint(EmbedderSpec(name))):
        assert fingerprint(f"{root}/proxy") == fingerprint(world.proxy)


def test_a_folder_of_a_store_without_a_model_is_refused(root, hub_folder):
    with pytest.raises(UsageError, match="holds no file of a model"):
        fetch_model(f"{root}/nothing")
