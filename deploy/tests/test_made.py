"""Everything that is made from something else is as it would be made now."""

import generate
import pytest
from common import ROOT


@pytest.fixture(scope="module")
def products():
    return dict(generate.products())


def test_nothing_is_out_of_date(products):
    stale = [
        str(path.relative_to(ROOT))
        for path, text in products.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "run deploy/check.sh --update and look at what changed"


def test_nothing_is_left_over(products):
    assert not generate.strangers(set(products))
