"""Recipes: data, read whole or refused."""

from pathlib import Path

import pytest

from appliance.core.errors import RecordError
from appliance.core.recipe import LeaveOut, Recipe, load_recipe


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_a_file_sets_what_it_names(tmp_path: Path) -> None:
    text = 'name = "manual"\nrank = 4\n[[leave_out]]\nrole = "system"\nmark = ["<m>", "</m>"]\n'
    recipe = load_recipe(_file(tmp_path, text))
    left_out = (LeaveOut(role="system", mark=("<m>", "</m>")),)
    assert recipe == Recipe(name="manual", rank=4, leave_out=left_out)
    assert recipe.digest != Recipe().digest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rnak = 4\n", "unknown field `rnak`"),
        ("rank = 0\n", ">= 1"),
        ('loss = "magic"\n', "Invalid enum value"),
        ("rank = \n", "Invalid value"),
        ('loss = "outcome_pg"\n[[leave_out]]\nrole = "system"\n', "the loss must be supervised"),
        ("replay_share = 0\n", "kl_weight is 0.1, but replay_share is 0"),
    ],
    ids=["unknown", "range", "word", "syntax", "not legal together", "KL on nothing"],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(RecordError, match=expected):
        load_recipe(_file(tmp_path, text))


def test_without_replay_there_is_no_kl(tmp_path: Path) -> None:
    assert load_recipe(_file(tmp_path, "replay_share = 0\nkl_weight = 0\n")).kl_weight == 0
    with pytest.raises(RecordError) as refusal:
        load_recipe(_file(tmp_path, "replay_share = 0.0\nkl_weight = 0.5\n"))
    assert "kl_weight = 0" in refusal.value.next_step


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="nowhere"):
        load_recipe(tmp_path / "nowhere.toml")
