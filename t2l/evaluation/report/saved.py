"""A report that `t2l evaluate` wrote, read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2l.files import FileProblemError, read_json

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ("contender", "split", "metric", "mean", "low", "high", "n_tasks", "n_examples", "n_seeds")


@dataclass(frozen=True)
class SavedReport:
    """What `report.json` holds: `data["results"]`, `data["controls"]`, `data["by_task"]`, `data["provenance"]`..."""

    folder: Path
    data: Mapping[str, Any]

    def to_pandas(self) -> DataFrame:
        """Scores, a row per contender and split: `mean` over tasks, and `low` and `high`, the ends of its 95 % bootstrap
        interval over training seeds, tasks and examples; all three in the metric's unit, 0 to 1.

        Raises ImportError if pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ImportError(
                "to_pandas needs pandas, which is not installed: `pip install pandas`, or read the rows of data['results']"
            ) from error
        rows = [{**r, "low": r["ci95"][0], "high": r["ci95"][1]} for r in self.data["results"]]
        return DataFrame(rows, columns=list(COLUMNS))


def load_report(folder: str | Path) -> SavedReport:
    """The report in a run folder of `t2l evaluate` or `t2l quickstart`.

    Raises FileProblemError if there is none, or it is damaged.
    """
    path = Path(folder) / "report.json"
    if not path.is_file():
        raise FileProblemError(
            f"{folder} holds no report.json: give a run folder of `t2l evaluate` or `t2l quickstart`"
        )
    data = read_json(path)
    if not isinstance(data, dict) or "results" not in data:
        raise FileProblemError(f"{path} is not a report of `t2l evaluate`: it has no results")
    return SavedReport(Path(folder), data)
