"""Fixtures that tests of several layers share."""

import pytest
from tiny_bert import make_tiny_bert

from aescli.models.text import TextConfig


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory) -> TextConfig:
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    return TextConfig(name=make_tiny_bert(tmp_path_factory.mktemp("tiny-bert")), max_tokens=40)
