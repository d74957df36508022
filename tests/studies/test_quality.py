import json
from pathlib import Path

import pytest

from studies.quality.page import PAGE, filled


RESULTS = json.loads((Path(__file__).resolve().parents[2] / "studies" / "quality" / "results.json")
                     .read_text(encoding="utf-8"))


def test_page():
    """The page has the tables of the committed results."""
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text, RESULTS) == text


def test_changed_figure_changes_page():
    text = PAGE.read_text(encoding="utf-8")
    learned = {**RESULTS["learn"], "recall": 0.123}
    assert "| 0.123 |" in filled(text, {**RESULTS, "learn": learned})


def test_missing_place():
    with pytest.raises(ValueError, match=r"has no place for codes$"):
        filled("# Accuracy", RESULTS)
