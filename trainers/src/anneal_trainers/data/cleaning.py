"""What becomes of a row before it is tokenised: cleaned, or left out for a reason."""

import dataclasses
from collections import Counter
from dataclasses import dataclass, field

from anneal_api.finetunejob import Data, Filters
from anneal_trainers.corpus import heuristics, licences, personal
from anneal_trainers.corpus.contamination import Detector, Hit
from anneal_trainers.corpus.draws import chance
from anneal_trainers.data import suites
from anneal_trainers.data.formats import Row
from anneal_trainers.data.units import content_digest


@dataclass(frozen=True)
class Cleaned:
    """A row as it goes on; `reason` says why it does not, with `detail`."""

    row: Row
    reason: str = ""
    detail: str = ""
    hit: Hit | None = None
    personal: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Cleaner:
    """Applies the filters of a run to one row after the other."""

    filters: Filters
    detector: Detector | None

    def clean(self, row: Row) -> Cleaned:
        """Return what becomes of a row."""
        if row.text and self.filters.license_headers == "remove":
            row = dataclasses.replace(row, text=licences.without_header(row.text))
            if not row.text.strip():
                return Cleaned(row, "onlyLicense")
        cleaned = self._personal(row)
        if cleaned.reason:
            return cleaned
        if why := self._heuristics(cleaned.row):
            return dataclasses.replace(cleaned, reason=why)
        if not self._is_sampled(row):
            return dataclasses.replace(cleaned, reason="downSampled", detail=row.language)
        return self._contamination(cleaned)

    def _personal(self, row: Row) -> Cleaned:
        if self.filters.personal_data == "keep":
            return Cleaned(row)
        result = personal.redacted(_texts(row))
        if result.found and self.filters.personal_data == "drop":
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(result.found.items()))
            return Cleaned(row, "personalData", kinds, personal=result.found)
        return Cleaned(_with_texts(row, result.texts), personal=result.found)

    def _heuristics(self, row: Row) -> str:
        return heuristics.reason(row.text, row.language) if self.filters.enabled and row.text else ""

    def _is_sampled(self, row: Row) -> bool:
        share = self.filters.languages.get(row.language, 1.0)
        return share == 1 or chance(content_digest(row), "language", share)

    def _contamination(self, cleaned: Cleaned) -> Cleaned:
        hit = self.detector.hit("\n".join(cleaned.row.parts)) if self.detector else None
        if hit is None or not hit.shared:
            return dataclasses.replace(cleaned, hit=hit)
        detail = f"{hit.suite} {hit.problem}: {hit.shared}"
        return dataclasses.replace(cleaned, hit=hit, reason="contaminated", detail=detail)


def cleaner(data: Data) -> Cleaner:
    """Return what cleans the rows of a run.

    Raises:
        Refused: a suite cannot be read.
    """
    return Cleaner(
        data.filters, Detector(suites.problems(data.decontaminate)) if data.decontaminate else None
    )


def _texts(row: Row) -> list[str]:
    return [*(content for _, content in row.messages), *(content for _, content in row.rejected), row.text]


def _with_texts(row: Row, texts: tuple[str, ...]) -> Row:
    """Return a row with other texts, given in the order of `_texts`."""
    rest = iter(texts)
    messages = tuple((role, next(rest)) for role, _ in row.messages)
    rejected = tuple((role, next(rest)) for role, _ in row.rejected)
    return dataclasses.replace(row, messages=messages, rejected=rejected, text=next(rest))
