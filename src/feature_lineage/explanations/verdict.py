"""What the scores come to."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import stats

from feature_lineage.explanations.budget import BUDGET_SPENT
from feature_lineage.explanations.excerpts import OTHERS, PERSISTING

COVERAGE = 0.5  # share of the features that could be scored, below which no comparison is called won or lost


def budget_note(table: pd.DataFrame) -> str | None:
    """What the end of the budget left out, in a phrase; None if it did not end.

    Args:
        table: rows of schema `INTERPRETATIONS`.
    """
    cut = table[table["reason"].fillna("").str.contains(BUDGET_SPENT, regex=False)]
    if cut.empty:
        return None
    by_fate = " and ".join(f"{(cut['fate'] == fate).sum():,} {fate}" for fate in (PERSISTING, OTHERS))
    return f"interpretation.budget_usd ended before {len(cut):,} of {len(table):,} features had all their scores ({by_fate})"


def families(lineages: pa.Table) -> dict[tuple[str, int, int], str]:
    """The lineage of each feature, by model, autoencoder seed and number: the feature in which its chain of ancestors begins.

    Features of one lineage are the same feature in several models; their scores are not independent of each other.

    Args:
        lineages: table of schema `fates.LINEAGES`.
    """
    found = {}
    for batch in lineages.select(["model", "seed", "feature", "chain"]).to_batches():
        for row in batch.to_pylist():
            first = row["chain"][-1] if row["chain"] else row
            found[row["model"], row["seed"], row["feature"]] = f"{first['model']}/{row['seed']}/{first['feature']}"
    return found


def verdict(table: pd.DataFrame) -> str:
    """In a few sentences, whether the explanations predict activations better than token statistics and other explanations do.

    Each comparison is of pairs, over the features that have both scores, and is called won or lost only if these are `COVERAGE` of those
    that could be scored. Its interval is that of a mean of clusters (Liang and Zeger 1986; Student's t with one less than their number):
    features of one lineage are one cluster, without `family` each is its own, which gives the paired t interval.

    Args:
        table: columns `fate`, `explanation`, `simulation`, `shuffled`, `token_mean`, `reason` and `model_used` of schema
            `INTERPRETATIONS`, of one model or of several; perhaps `family`, the lineage of each feature (`families`).
    """
    means = table["token_mean"].dropna()
    if table["model_used"].isna().all():
        if means.empty:
            return "No feature was scored."
        return (
            "No language model was asked. The scores are those of the token-statistics baseline, which predicts at each token the "
            f"feature's mean activation on that token: mean Pearson correlation {means.mean():.2f} over {len(means):,} features."
        )
    names = " and ".join(sorted(table["model_used"].dropna().unique()))
    sentences = [_compared(f"The explanations of {names}", "the token-statistics baseline", table, "token_mean")]
    if table["shuffled"].notna().any():
        sentences.append(_compared("They", "another feature's explanation", table, "shuffled"))
    scored = table["simulation"].notna()
    if "family" in table and table.loc[scored, "family"].duplicated().any():
        sentences.append(
            f"The {scored.sum():,} scored features belong to {table.loc[scored, 'family'].nunique():,} lineages; the intervals take "
            "lineages as independent of each other, not features."
        )
    if unscored := int((table["explanation"].notna() & ~scored).sum()):
        explained = table["explanation"].notna().sum()
        sentences.append(f"{unscored:,} of {explained:,} explained features have no score and are left out.")
    if constant := int((table["simulation"] == 0).sum()):
        sentences.append(f"{constant:,} of {scored.sum():,} simulations are the same at every token and count as 0.")
    counts = {fate: int((scored & (table["fate"] == fate)).sum()) for fate in (PERSISTING, OTHERS)}
    for fate, other in ((PERSISTING, OTHERS), (OTHERS, PERSISTING)):
        if counts[other] and not counts[fate] and (table["fate"] == fate).any():
            sentences.append(f"No {fate} feature has a score: persisting features cannot be compared with the others.")
    if note := budget_note(table):
        sentences.append(f"{note[0].upper()}{note[1:]}.")
    return " ".join(sentences)


def _compared(ours: str, control: str, table: pd.DataFrame, score: str) -> str:
    both = table["simulation"].notna() & table[score].notna()
    possible = int(table["token_mean"].notna().sum())
    simulation, other = table.loc[both, "simulation"], table.loc[both, score]
    difference = simulation - other
    few = f"{ours} could be scored beside {control} on too few features to compare them ({len(difference):,}"
    if len(difference) < 2 or np.ptp(difference) == 0:
        return f"{few})."
    if len(difference) < COVERAGE * possible:
        return f"{few} of {possible:,})."
    low, high = _interval(difference, table.loc[both, "family"] if "family" in table else None)
    verb = "beat" if low > 0 else "do worse than" if high < 0 else "do not beat"
    return (
        f"{ours} {verb} {control}: mean Pearson correlation {simulation.mean():.2f} against {other.mean():.2f} over the same "
        f"{len(difference):,} features, a difference of {difference.mean():+.2f} (95 % interval {low:+.2f} to {high:+.2f}); they are "
        f"better for {(difference > 0).mean():.0%} of the features."
    )


def _interval(values: pd.Series, cluster: pd.Series | None) -> tuple[float, float]:
    """95 % interval of the mean of values that are independent between clusters alone; without bounds if there is only one."""
    residual = values - values.mean()
    sums = residual if cluster is None else residual.groupby(cluster.to_numpy()).sum()
    if (count := len(sums)) < 2:
        return -math.inf, math.inf
    error = math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(values)
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    return float(values.mean()) - reach, float(values.mean()) + reach
