# %% [markdown]
# # Lesson 9. Reading critically
#
# **Afterwards you can** check a printed table against itself, find the comparison that a claim
# needs, put an interval about a difference, and design a study that could prove you wrong.
#
# **You need** [Lesson 6](06_algorithm_1.ipynb). A mean and a standard deviation.
#
# **Minutes:** 60.

# %%
import math

import checks
import course
import numpy as np
import torch
from scipy import stats

from acslib import schedule, selectors
from acslib.attacks import PGD
from acslib.objectives import AdversarialTraining
from acslib.paper import printed, study

# %% [markdown]
# ## The table
#
# Table 1 is the paper's main result. Here it is as printed, with the speed-up that its own
# minutes give. ACC is clean accuracy, RACC robust accuracy.

# %%
table = printed.paper_table("table1")
shown = ["model", "objective", "dataset", "method", "acc_pct", "racc_pct", "time_min", "speedup_x"]
table[shown].round(2)

# %% [markdown]
# ## Does the table agree with itself?
#
# The paper prints differences to full training in parentheses. They can be computed.
#
# ### Exercise 9.1
#
# Which rows print a difference in ACC that is not the difference of their ACCs? `full` has, for
# each row of the table, the row of full training to compare with.
#
# <details><summary>Hint</summary>
#
# `(table.acc_diff_printed_pct - (table.acc_pct - full.acc_pct)).abs()`; two printed decimals are
# right to 0.0051. A comparison with a missing value is false.
#
# </details>


# %% tags=["exercise"]
def my_wrong_rows(table, full):
    """The index labels of the rows whose `acc_diff_printed_pct` is wrong, as a list."""
    # >>> answer
    off = (table.acc_diff_printed_pct - (table.acc_pct - full.acc_pct)).abs()
    return off.index[off > 0.0051].tolist()
    # >>> stub
    # return None
    # <<<


# %%
wrong_rows = my_wrong_rows if checks.check_9_1(my_wrong_rows) else checks.wrong_rows
print(table.loc[wrong_rows(table, printed.of_full(table)), shown[:4]].to_string())
for name in ("table1", "table2", "table3", "table5", "table6", "tableD4"):
    print(*printed.errata(name), sep="\n")

# %% [markdown]
# A handful of slips among more than a hundred printed numbers. They are small. Checking them
# takes ten minutes, and it teaches you what each column means.
#
# ## Does the text agree with the table?
#
# > "in most cases, we reduce the training time by more than a factor of two, while keeping the
# > clean and robust accuracy almost intact" (section 4.1)
#
# ### Exercise 9.2
#
# In how many of the 16 coreset rows is the speed-up at least 2?
#
# <details><summary>Hint</summary>
#
# `(table[table.method != "full"].speedup_x >= 2).sum()`
#
# </details>

# %% tags=["exercise"]
# >>> answer
my_count = int((table[table.method != "full"].speedup_x >= 2).sum())
# >>> stub
# my_count = None
# <<<

# %%
right = checks.check_9_2(my_count)

# %% [markdown]
# Lesson 6 said so beforehand: with k = 0.5 the speed-up can reach 2 and no more.
#
# ## What would it be compared with?
#
# A coreset run costs half. What else could you do for half the price? **Train on everything for
# half as long.** The paper has these numbers, in another table (Table 3, "Early Termination").
#
# ### Exercise 9.3
#
# One row *dominates* another if it is at least as good in ACC, RACC and minutes, and better in
# one.
#
# <details><summary>Hint</summary>
#
# Rows have `acc_pct`, `racc_pct` and `time_min`. Fewer minutes are better.
#
# </details>


# %% tags=["exercise"]
def my_dominates(first, second):
    """Whether the first row dominates the second."""
    # >>> answer
    better = (
        first.acc_pct - second.acc_pct,
        first.racc_pct - second.racc_pct,
        second.time_min - first.time_min,
    )
    return min(better) >= 0 and max(better) > 0
    # >>> stub
    # return None
    # <<<


# %%
dominates = my_dominates if checks.check_9_3(my_dominates) else checks.dominates
alike = "model == 'WideResNet-28-10' and objective == 'linf_pgd' and dataset == 'CIFAR-10'"
long, short = table.query(alike), printed.paper_table("table3").query(alike)
for name, rows in (("120", long), ("60", short)):
    for _, row in rows.iterrows():
        numbers = f"ACC {row.acc_pct} RACC {row.racc_pct} minutes {row.time_min}"
        print(f"{name:>3} epochs {row.method:14s} {numbers}")
half_as_long = short[short.method == "full"].iloc[0]
for _, row in long.iterrows():
    verdict = "dominates" if dominates(half_as_long, row) else "does not dominate"
    print(f"everything for 60 epochs {verdict} {row.method} for 120 epochs")

# %% [markdown]
# On this network, in the paper's own numbers, half the epochs on all the data are better in every
# respect than all the epochs on half the data. It is one network and one data set: for SVHN the
# tables have no pair at equal time. But it is the comparison that the claim needs, and Table 1
# does not have it.
#
# ### Exercise 9.4
#
# Which is a comparison at equal cost with GradMatch, k = 0.5, 120 epochs?
#
# (a) full training, 120 epochs; (b) full training, 60 epochs; (c) CRAIG, k = 0.3, 120 epochs.
#
# <details><summary>Hint</summary>
#
# Count images: epochs times share.
#
# </details>

# %% tags=["exercise"]
# >>> answer
my_choice = "b"
# >>> stub
# my_choice = None  # "a", "b" or "c"
# <<<

# %%
right = checks.check_9_4(my_choice)

# %% [markdown]
# The other comparison that is needed is **adaptive random**: a random subset of the same size,
# drawn anew whenever the coreset would be. It has everything but the selection. We run it now, on
# digits, with several seeds.
#
# As in Lesson 6, GradMatch chooses among groups of 8 images. All runs of a seed share their warm
# start, so we look at *paired* differences. As a **null** we compare adaptive random with a
# second adaptive random: whatever difference shows there is chance.
#
# **Prediction.** GradMatch minus adaptive random, in points of robust accuracy, mean over the
# seeds?

# %%
prediction = None  # your guess, in points


# %%
gradmatch = selectors.BatchWise(selectors.gradmatch, 8)


def outcome(selector, seed):
    """Robust accuracy in percent after ten epochs with k = 0.3."""
    attack = PGD("linf", 0.1, 0.05, 3, generator=torch.Generator().manual_seed(seed))
    plan = schedule.plan(course.size(10, 4), 0.3, 0.6, 2)
    objective = AdversarialTraining(attack)
    state = course.train(objective, len(plan), plan=plan, selector=selector, seed=seed)
    return course.robust(state.model)


# %%
seeds = range(course.size(8, 2))
arms = {"gradmatch": [], "adaptive_random": [], "null": []}
for seed in seeds:
    arms["gradmatch"].append(outcome(gradmatch, seed))
    arms["adaptive_random"].append(outcome(selectors.AdaptiveRandom(seed), seed))
    arms["null"].append(outcome(selectors.AdaptiveRandom(1000 + seed), seed))
base = np.array(arms["adaptive_random"])
differences = {name: np.array(arms[name]) - base for name in ("gradmatch", "null")}
print("adaptive random:", base.round(1).tolist())
course.predicted(prediction, float(differences["gradmatch"].mean()), "Mean difference", " points")

# %% [markdown]
# ### Exercise 9.5
#
# The 95 % interval of the mean difference, by Student's t: mean ± $t_{0.975,\,n-1}\, s/\sqrt n$,
# where $s$ is the standard deviation (divided by $n-1$).
#
# <details><summary>Hint</summary>
#
# `stats.t.ppf(0.975, n - 1)` and `np.std(differences, ddof=1)`.
#
# </details>


# %% tags=["exercise"]
def my_interval(differences):
    """The lower and the upper end of the interval."""
    # >>> answer
    n, mean = len(differences), np.mean(differences)
    half = stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / n**0.5
    return mean - half, mean + half
    # >>> stub
    # return None
    # <<<


# %%
interval = my_interval if checks.check_9_5(my_interval) else checks.interval
course.show(study.half_width)


# %%
def draw(axis, count):
    words = []
    for place, (name, colour) in enumerate((("gradmatch", course.BLUE), ("null", course.GREY))):
        values = differences[name][:count]
        told = course.with_interval(axis, place, values, *interval(values), colour)
        words.append(f"{name}: {told}")
    axis.axhline(0, color="black", linestyle=":")
    axis.set_xticks([0, 1], ["GradMatch", "null"])
    axis.set(xlim=(-0.5, 1.7), ylim=(-12, 12), ylabel="minus adaptive random, points")
    return "; ".join(["minus adaptive random, in points, with a dotted line at 0", *words])


course.slider(draw, "seeds", range(2, len(seeds) + 1))

# %% [markdown]
# `half_width` is the same formula as the library's study uses it. For a single seed it gives no
# number (NaN): one difference has no spread.
#
# Circles are seeds, the diamond their mean, the bar the interval. The null shows how far two
# equal methods lie apart by chance: several points. **With one seed you could have reported
# almost anything.** Look at the bar of all seeds: does it hold 0? Whatever it says, it says it of
# digits, one network and one k. Table 1 does not say how many runs its rows have; Table 5 says
# "averaged over 5 runs" (caption) and gives no spread.
#
# ### Exercise 9.6
#
# How many seeds do you need for an interval of ± `half_width` points, if single differences
# scatter with standard deviation `deviation`? Use 1.96 for the factor.
#
# <details><summary>Hint</summary>
#
# Solve 1.96 · deviation / √n ≤ half_width for n and round up.
#
# </details>


# %% tags=["exercise"]
def my_seeds(deviation, half_width):
    """The number of seeds, a whole number."""
    # >>> answer
    return math.ceil((1.96 * deviation / half_width) ** 2)
    # >>> stub
    # return None
    # <<<


# %%
seeds_needed = my_seeds if checks.check_9_6(my_seeds) else checks.seeds_needed
deviation = float(np.std(differences["gradmatch"], ddof=1))
widths = [0.5, 1, 2, 4, 8]
counts = [seeds_needed(deviation, width) for width in widths]
course.curves(widths, {"here": counts}, "half-width, points", "seeds needed", log=True)

# %% [markdown]
# On 360 test images part of the scatter is the test set's: an accuracy of 50 % on 360 images has
# a standard error of 2.6 points. More test images are cheaper than more seeds.
#
# ## A design that can decide
#
# Written down *before* the first run:
#
# - **Question.** Is GradMatch better than adaptive random at equal cost?
# - **Arms**, all from the same warm start: GradMatch, CRAIG, the same picks without weights,
#   adaptive random, a second adaptive random (the null), all the data for as much time.
# - **Measure.** Paired differences in robust accuracy on a large test set.
# - **Verdict.** *Better* if the 95 % interval lies above 0, *worse* if it lies below. *Not better
#   by more than a point* if it ends below 1. Otherwise it *cannot be told*.
# - **Stopping.** Seeds are added until the half-width is reached. The rule is fixed beforehand.
# - **Report.** All comparisons that were made, not only those that came out well.
#
# This repository has such a [study](../../docs/study.md): real CIFAR-10, a small ResNet-18, 10,000
# test images, and coresets of three sizes. The next cell shows the rule of its verdict and reads
# its table.
#
# **Prediction.** GradMatch minus adaptive random, in points of robust accuracy (RACC), mean over
# the three sizes? Put it into the first line and run the cell.

# %%
prediction = None  # in points
course.show(study.judged)
found = course.published("study")
print(study.verdicts_text("mini", course.PUBLISHED))
decided = study.deciding(found).loc["linf"]
course.predicted(prediction, float(decided.difference), "GradMatch in the study", " points")
over_sizes = found[found.k == study.MEAN].set_index(["objective", "arm", "measure"])
over_sizes[["difference", "ci_low", "ci_high", "seeds"]].round(2)

# %% [markdown]
# ![Differences to adaptive random with 95 % intervals, by arm and
# size](../../results/published/mini/study.png)
#
# Under linf-PGD GradMatch does not beat adaptive random by more than a point; whether it does at
# all cannot be told. Under TRADES GradMatch beats adaptive random, and not by more than a point.
# That is said of *robust* accuracy. In *clean* accuracy (`acc`) both intervals lie above 0. CRAIG's
# robust accuracy under linf-PGD is below that of adaptive random. The second adaptive random, the
# null, shows no difference there, as it should. The strongest rival chooses nothing: N-FGSM takes
# one step on all the data, and for about as much time as a fifth of them it is far ahead of that
# fifth. And it is one network and one data set. What this says about the paper's claims, one by
# one, is in [claims](../../docs/claims.md).
#
# ## Quiz
#
# 1. A method is 0.8 points better in a table without intervals. What do you ask?
# 2. Why pair the runs by seed?
# 3. Why is "full training, same number of epochs" not the right rival for a method that saves
#    time?
# 4. You compare 20 pairs of methods at 95 %. How many differ "significantly" if none does?
# 5. GradMatch's gradient error is ten times smaller than chance's (Lesson 5). Why need that not
#    show in accuracy?
#
# <details><summary>Answers</summary>
#
# 1. How many seeds, how many test images, how large the spread is, and what else was tried.
# 2. What a seed does to both runs (the initial weights, the warm start) cancels in the
#    difference.
# 3. It costs more. At equal cost one could train on everything for fewer epochs.
# 4. About one.
# 5. The error is small at the moment of selection and on un-augmented images. Some epochs later
#    the network has moved on.
#
# </details>
#
# **This was the last lesson.** Write your own selector (`notebooks/own.ipynb` shows
# how), and put it to this test.
