"""What nobody thought of, in short: `python -m bench.fuzz` is the long form. The cases are the same each time."""

from pathlib import Path

from tests.fuzz.rest import requests_of_anybody, requests_with_credentials
from tests.fuzz.rounds import upgrades_by_hand, visits_of_strangers, visits_with_credentials


def test_whatever_strangers_say_is_refused_in_order_and_costs_nobody_else() -> None:
    """Each error is the protocol's, with its close code; a bystander is heard in full; nothing is left."""
    ends = visits_of_strangers(150)
    assert {"1000", "1002", "invalid_config"} <= set(ends)


def test_whatever_credentials_they_bring(tmp_path: Path) -> None:
    ends = visits_with_credentials(150, tmp_path)
    assert {"1000", "401 unauthenticated"} <= set(ends)


def test_whatever_stands_in_an_upgrade() -> None:
    ends = upgrades_by_hand(200)
    assert {"101", "400"} <= set(ends)


def test_rest_answers_what_its_document_says(tmp_path: Path) -> None:
    ends = requests_of_anybody(60, tmp_path)
    assert {"200", "400", "403", "404"} <= set(ends)


def test_rest_asks_for_the_credentials_of_its_document(tmp_path: Path) -> None:
    ends = requests_with_credentials(100, tmp_path)
    assert {"200", "201", "401", "403", "404"} <= set(ends)
