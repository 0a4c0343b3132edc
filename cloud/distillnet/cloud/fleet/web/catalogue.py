"""Published students as the page shows them: by application, with what their cards say, and the best of them drawn."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from distillnet.cloud.fleet.database import Model
from distillnet.cloud.fleet.web import charts
from distillnet.proto.card import Card


@dataclass(frozen=True)
class Entry:
    """One version."""

    row: Model
    card: Card

    @property
    def pretty_card(self) -> str:
        """The card, a field a line."""
        return json.dumps(json.loads(self.row.card_json), indent=1)


@dataclass(frozen=True)
class Shelf:
    """The versions of one application, newest first; `chart` is empty where fewer than two say how good they are."""

    application: str
    entries: list[Entry]
    chart: Markup


def shelves(rows: Iterable[Model]) -> list[Shelf]:
    """Group published students, sorted by application."""
    grouped = itertools.groupby(rows, key=lambda row: row.application)
    return [
        _shelf(name, [Entry(row, Card.model_validate_json(row.card_json)) for row in group]) for name, group in grouped
    ]


def _shelf(application: str, entries: list[Entry]) -> Shelf:
    """Draw the first metric against the first latency of the cards that have the newest one's."""
    told = [entry for entry in entries if entry.card.metrics and entry.card.latency]
    if not told:
        return Shelf(application, entries, Markup())
    name, board = told[0].card.metrics[0].name, told[0].card.latency[0].board
    points = [
        (entry.card.latency[0].ms, entry.card.metrics[0].value, f"version {entry.row.version}")
        for entry in told
        if entry.card.metrics[0].name == name and entry.card.latency[0].board == board
    ]
    return Shelf(application, entries, charts.front(points, f"ms on {board}", name))
