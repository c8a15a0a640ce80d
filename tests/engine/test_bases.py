"""What may become a base, and what its digest covers."""

import json

import pytest

from appliance.core.errors import IntegrityError, NotFoundError, UsageError
from appliance.engine import safetensors_file
from appliance.engine.bases import Registry

OWN = """{%- if tools %}{{ '<|im_start|>system\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}
{{- '<|im_end|>\n' }}{% endif %}{% for m in messages %}
{{- '<|im_start|>' + m.role + '\n' + m.content }}
{%- for c in m.tool_calls or [] %}{{ '<tool_call>\n' + (c.function | tojson) + '\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def test_a_base_is_found_by_name_and_by_digest(home, model_folder):
    registry = Registry(home)
    base = registry.add_directory(model_folder, "small", "a test")
    assert registry.get("small") == registry.get(base.digest) == registry.get(base.digest[7:19])
    assert (base.name, base.context_length, base.record.origin) == ("small", 512, "a test")
    assert registry.all() == [base]
    base.verify()


def test_the_same_content_is_one_base_with_two_names(home, model_folder):
    registry = Registry(home)
    first = registry.add_directory(model_folder, "one", "a")
    assert registry.add_directory(model_folder, "two", "b") == first
    assert registry.get("two") == first
    assert len(registry.all()) == 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.safetensors", lambda text: text[:-1] + b"\1"),
        ("config.json", lambda text: text.replace(b"512", b"256")),
        ("tokenizer.json", lambda text: text + b" "),
        ("tokenizer_config.json", lambda text: text.replace(b"<|im_start|>", b"<|im_end|>", 1)),
        ("chat_template.jinja", lambda text: text + b"{# other #}"),
    ],
)
def test_every_part_counts(home, model_folder, name, change):
    (model_folder / "chat_template.jinja").write_text(OWN)
    registry = Registry(home)
    first = registry.add_directory(model_folder, "base", "a")
    path = model_folder / name
    path.write_bytes(change(path.read_bytes()))
    assert registry.add_directory(model_folder, "base", "a").digest != first.digest


def test_changed_bytes_are_noticed(home, model_folder):
    base = Registry(home).add_directory(model_folder, "small", "a test")
    path = base.path / "config.json"
    path.chmod(0o644)
    path.write_text(path.read_text() + " ")
    with pytest.raises(IntegrityError, match="changed on disk"):
        base.verify()


def test_a_template_with_tools_stays(home, model_folder):
    (model_folder / "chat_template.jinja").write_text(OWN)
    base = Registry(home).add_directory(model_folder, "small", "a test")
    assert base.record.template == "own"
    assert (base.path / "chat_template.jinja").read_text() == OWN


def test_a_template_without_tools_is_replaced_and_no_second_one_is_left(home, model_folder):
    base = Registry(home).add_directory(model_folder, "small", "a test")
    assert base.record.template == "espalier"
    assert "<tool_call>" in (base.path / "chat_template.jinja").read_text()
    assert "chat_template" not in json.loads((base.path / "tokenizer_config.json").read_text())


def test_shards_are_joined(home, model_folder, write_weights):
    (model_folder / "model.safetensors").unlink()
    write_weights(model_folder / "model-00001-of-00002.safetensors", {"a": 3})
    write_weights(model_folder / "model-00002-of-00002.safetensors", {"b": 2, "c": 1})
    base = Registry(home).add_directory(model_folder, "small", "a test")
    entries, _ = safetensors_file.read_header(base.path / "model.safetensors")
    assert {name: entry.shape for name, entry in entries.items()} == {
        "a": (3,),
        "b": (2,),
        "c": (1,),
    }


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.pt", "x.pth", "x.ckpt", "x.pickle"])
def test_pickle_is_refused(home, model_folder, name):
    (model_folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UsageError, match="runs code") as refusal:
        Registry(home).add_directory(model_folder, "small", "a test")
    assert "safetensors" in refusal.value.next_step


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), UsageError, "no model.safetensors"),
        (lambda f: (f / "tokenizer.json").unlink(), UsageError, "no tokenizer.json"),
        (lambda f: (f / "config.json").unlink(), UsageError, "no config.json"),
        (lambda f: (f / "config.json").write_text("[1"), UsageError, "not a JSON object"),
        (
            lambda f: (f / "config.json").write_text('{"architectures": ["BertModel"]}'),
            UsageError,
            "not a causal language model: its config says BertModel",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04pickle in disguise......"),
            IntegrityError,
            "not a safetensors file",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:-1]
            ),
            IntegrityError,
            "cut short",
        ),
    ],
)
def test_what_is_no_base_is_refused_and_leaves_nothing(home, model_folder, change, error, message):
    change(model_folder)
    with pytest.raises(error, match=message):
        Registry(home).add_directory(model_folder, "small", "a test")
    assert [path.name for path in home.bases.iterdir() if path.is_dir()] == []


def test_an_unknown_name_says_what_there_is(home, model_folder):
    registry = Registry(home)
    registry.add_directory(model_folder, "small", "a test")
    with pytest.raises(NotFoundError, match="known: small"):
        registry.get("large")
