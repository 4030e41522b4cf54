"""Paired differences between two models that were asked the same questions and judged by the same judge.

``safe_llava.prism.compare`` says which tests and intervals are used, and where.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from safe_llava.core.errors import PrismError
from safe_llava.core.statistics import (
    RESAMPLES,
    SEED,
    newcombe_interval,
    percentile_interval,
    resampled_sums,
    sign_flip_test,
    whole_weights,
)
from safe_llava.formats.prism import Task, Verdict
from safe_llava.formats.scores import ANSWERED, BOOTSTRAP, CELLS, PairedDifference
from safe_llava.prism.scoring.cells import (
    JudgedTask,
    Mark,
    ScoredFor,
    counts_beyond_hits,
    grouped,
    leakage_scored,
    macro_parts,
    marks_of,
    strata_of,
)
from safe_llava.prism.scoring.rates import Ends, digits_of, percent

NEWCOMBE, NEWCOMBE_IMAGES = "newcombe", "newcombe_images"
MCNEMAR, SIGN_FLIP, SIGN_FLIP_DRAWN = "mcnemar_exact", "sign_flip", "sign_flip_drawn"
P_DIGITS = 4
PairedCell = tuple[str, Task, str, str, str]  # edition, task, judge, first and second model


@dataclass(frozen=True)
class Pairs:
    """The pairs of one cell by photo: how many, and in how many of them the first and the second model did well."""

    count: np.ndarray
    first: np.ndarray
    second: np.ndarray
    both: int
    only_first: int
    only_second: int

    @property
    def total(self) -> int:
        """How many pairs there are."""
        return int(self.count.sum())

    @property
    def images(self) -> int:
        """How many photos they are about."""
        return int((self.count > 0).sum())

    @property
    def shares(self) -> tuple[Fraction, Fraction]:
        """Both rates as fractions of 1."""
        return Fraction(int(self.first.sum()), self.total), Fraction(int(self.second.sum()), self.total)

    @property
    def alone(self) -> tuple[int, int]:
        """In how many pairs the first model alone did well, and the second alone."""
        return int(self.first.sum()) - self.both, int(self.second.sum()) - self.both

    def newcombe(self, effective: int) -> Ends:
        """Return Newcombe's interval as if there were ``effective`` pairs."""
        first, second = self.alone
        cells = (self.both, first, second, self.total - self.both - first - second)
        both, first_alone, second_alone, neither = (cell * effective / self.total for cell in cells)
        return newcombe_interval(both, first_alone, second_alone, neither)


def pair_up(first: Sequence[Mark], second: Sequence[Mark], places: dict[str, int], beyond: bool) -> Pairs:
    """Set two models' marks of a cell side by side; ``beyond``: hits are leaks, and no hit is well done."""

    def known(marks: Sequence[Mark]) -> dict[tuple[str, int], bool]:
        return {(v.question_id, v.index): hit != beyond for v, hit in marks if hit is not None}

    ones, others = known(first), known(second)
    counts = np.zeros((3, len(places)), dtype=np.int64)
    both = 0
    for verdict, _ in first:
        key = (verdict.question_id, verdict.index)
        if key in ones and key in others:
            counts[:, places[verdict.photo]] += (1, ones[key], others[key])
            both += ones[key] and others[key]
    total = int(counts[0].sum())
    return Pairs(counts[0], counts[1], counts[2], both, len(ones) - total, len(others) - total)


class PairedTask:
    """Two models on one task of one edition, as one judge saw them."""

    def __init__(
        self,
        task: Task,
        verdicts: tuple[Sequence[Verdict], Sequence[Verdict]],
        scored: ScoredFor,
        resamples: int = RESAMPLES,
        seed: int = SEED,
    ) -> None:
        self.task, self.resamples, self.seed = task, resamples, seed
        sides = [marks_of(task, side, scored) for side in verdicts]
        # Which descriptions were given differs between the models: those cells have no pairs.
        names = [name for name in sides[0] if not name.startswith(ANSWERED)]
        strata = strata_of({name: [*sides[0][name], *sides[1][name]] for name in names})
        places = {photo: place for place, photo in enumerate(strata)}
        self.cells = {
            name: pair_up(sides[0][name], sides[1][name], places, counts_beyond_hits(name, task)) for name in names
        }
        self.drawn = self._draw(list(strata.values()))

    def _draw(self, strata: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the difference in each resample of the photos, by cell."""
        numbers = {name: number for number, name in enumerate(sorted(set(strata)))}
        columns = np.stack([c for p in self.cells.values() for c in (p.first - p.second, p.count)], axis=1)
        sums = resampled_sums(columns.astype(float), [numbers[name] for name in strata], self.resamples, self.seed)
        with np.errstate(invalid="ignore"):
            differences = sums[:, 0::2] / sums[:, 1::2]
        return {name: differences[:, column] for column, name in enumerate(self.cells)}

    def rows(self, where: PairedCell) -> list[PairedDifference]:
        """Return the rows, in the order of the tables; ``where`` is edition, task, judge, first and second model."""
        rows = {name: self._cell(where, name) for name in self.cells}
        for name, parts in macro_parts(self.cells).items():
            rows[name] = self._macro(where, name, parts)
        return [rows[name] for name in CELLS if name in rows]

    def _cell(self, where: PairedCell, name: str) -> PairedDifference:
        pairs = self.cells[name]
        if not pairs.total:
            return self._row(where, name, [pairs], None, None, "", None, "")
        p_value, exact = sign_flip_test(pairs.first - pairs.second, self.resamples, self.seed)
        if bool((pairs.count <= 1).all()):
            return self._row(
                where, name, [pairs], pairs.shares, pairs.newcombe(pairs.total), NEWCOMBE, p_value, MCNEMAR
            )
        found = percentile_interval(self.drawn[name])
        ends, how = (found, BOOTSTRAP) if found else (pairs.newcombe(pairs.images), NEWCOMBE_IMAGES)
        test = SIGN_FLIP if exact else SIGN_FLIP_DRAWN
        return self._row(where, name, [pairs], pairs.shares, ends, how, p_value, test)

    def _macro(self, where: PairedCell, name: str, parts: Sequence[str]) -> PairedDifference:
        pairs = [self.cells[part] for part in parts]
        if not all(cell.total for cell in pairs):
            return self._row(where, name, pairs, None, None, "", None, "")
        one, other = (sum((cell.shares[side] for cell in pairs), Fraction(0)) / len(pairs) for side in (0, 1))
        weights = whole_weights([cell.total for cell in pairs])
        terms = sum(weight * (cell.first - cell.second) for weight, cell in zip(weights, pairs, strict=True))
        p_value, exact = sign_flip_test(np.asarray(terms), self.resamples, self.seed)
        found, how = percentile_interval(np.mean([self.drawn[part] for part in parts], axis=0)), BOOTSTRAP
        if found is None:
            ends = [cell.newcombe(cell.images) for cell in pairs]
            found, how = (sum(e[0] for e in ends) / len(ends), sum(e[1] for e in ends) / len(ends)), NEWCOMBE_IMAGES
        return self._row(where, name, pairs, (one, other), found, how, p_value, SIGN_FLIP if exact else SIGN_FLIP_DRAWN)

    def _row(
        self,
        where: PairedCell,
        name: str,
        pairs: Sequence[Pairs],
        shares: tuple[Fraction, Fraction] | None,
        ends: Ends | None,
        ci: str,
        p_value: float | None,
        test: str,
    ) -> PairedDifference:
        edition, task, judge, first, second = where
        digits = digits_of(name, self.task)
        rates = [percent(share, digits) for share in shares] if shares else [None, None]
        low, high = (round(100 * end, 2) for end in ends) if ends else (None, None)
        return PairedDifference(
            *(edition, task, name, judge, first, second),
            n_pairs=sum(cell.total for cell in pairs),
            n_only_first=sum(cell.only_first for cell in pairs),
            n_only_second=sum(cell.only_second for cell in pairs),
            n_images=int((np.sum([cell.count for cell in pairs], axis=0) > 0).sum()),
            first_rate=rates[0],
            second_rate=rates[1],
            difference=percent(shares[0] - shares[1], digits) if shares else None,
            ci_low=low,
            ci_high=high,
            ci=ci,
            first_alone=sum(cell.alone[0] for cell in pairs),
            second_alone=sum(cell.alone[1] for cell in pairs),
            p_value=None if p_value is None else float(f"{p_value:.{P_DIGITS}g}"),
            test=test,
        )


def paired_differences(
    verdicts: Iterable[Verdict],
    models: Sequence[tuple[str, str]],
    choice: Mapping[str, ScoredFor] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Iterator[PairedDifference]:
    """Yield the rows of every pair of models on each edition, judge and task that both have verdicts for.

    Args:
        verdicts: of all the models.
        models: pairs of first and second model.
        choice: how an edition's descriptions are scored, where not by its default.
        resamples: of the bootstrap, and of drawn signs.
        seed: of both.

    Raises:
        PrismError: two models of a pair have nothing in common.
    """
    groups = grouped(verdicts)
    for first, second in models:
        common = 0
        for group, own in groups.items():
            other = next((g for g in groups if _same_but_model(group, g) and g.model == second), None)
            if group.model != first or other is None:
                continue
            common += 1
            scored = leakage_scored(group.edition, (choice or {}).get(group.edition))
            found = PairedTask(group.task, (own, groups[other]), scored, resamples, seed)
            yield from found.rows((group.edition, group.task, group.judge, first, second))
        if not common:
            raise PrismError(
                f"{first} and {second} have no edition, task and judge in common", "give the verdicts on both models"
            )


def _same_but_model(one: JudgedTask, other: JudgedTask) -> bool:
    return (one.edition, one.task, one.judge) == (other.edition, other.task, other.judge)
