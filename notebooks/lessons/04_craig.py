# %% [markdown]
# # Lesson 4. CRAIG: samples that stand for their neighbours
#
# **Afterwards you can** say what facility location minimises and why that bounds the gradient
# error, run the greedy algorithm by hand and in code, and judge a CRAIG coreset of real
# gradients.
#
# **You need** [Lesson 3](03_last_layer_gradients.ipynb): a sample is its gradient. In a sentence:
# the gradient of one sample's loss in the last layer's weights is the outer product of its error
# (softmax minus label) and its features, which is eq. (18).
#
# **Minutes:** 50.

# %%
from itertools import combinations

import checks
import course
import matplotlib.pyplot as plt
import torch

from acslib import selectors

# %% [markdown]
# ## The idea
#
# $V$ is the set of all training samples, and sample $i$ has the gradient $g_i$. We look for a few
# samples, the coreset $S$, and a weight $\gamma_j$ for each, so that the weighted gradients add up
# to the sum of all (eq. 12; appendix A calls it A1). CRAIG lets **each sample be served by the
# nearest chosen one**, whose gradient stands for its own. If the two are close, little is lost.
# What is lost altogether is at most
#
# $$L(S)=\sum_{i\in V}\min_{j\in S} d_{ij},\qquad d_{ij}=\|g_i-g_j\|\qquad\text{(eqs. A2, A3)}$$
#
# Why at most? Putting $g_j$ in the place of $g_i$ changes the sum by $g_i-g_j$, whose length is
# $d_{ij}$. By the triangle inequality all these changes together are no longer than their lengths
# added up. The paper says:
#
# > "find an upper-bound on the estimation error of Eq. (A1)" (appendix A.1)
#
# (A3 has a maximum over all parameters of the network, which nobody can compute. In practice, as
# here, the distance is that of the gradients now.)
#
# ## Fourteen gradients that one can draw
#
# Real gradients have thousands of entries. These have two: three clouds, and one sample far away
# from all.
#
# CRAIG picks samples one after the other. The first one serves everyone, until there is a second.
#
# **Prediction.** Which sample does CRAIG pick first, so that $L$ is smallest? Run the cell, look,
# put a number into its last line, and run it once more.

# %%
gradients = checks.points()
distances = torch.cdist(gradients, gradients)
axis = plt.subplots(figsize=(4.5, 3.2))[1]
axis.plot(*gradients.T, "o", color=course.GREY)
for i, point in enumerate(gradients):
    axis.annotate(str(i), point, xytext=(4, 3), textcoords="offset points", fontsize=8)
axis.set(title="14 gradients: three clouds, one far away", aspect="equal")
plt.show()
prediction = None  # the number of the sample that CRAIG picks first

# %% [markdown]
# ### Exercise 4.1
#
# Write $L(S)$. `distances[i, j]` is the distance between samples i and j, and `chosen` is a list
# of indices.
#
# <details><summary>Hint</summary>
#
# `distances[:, chosen]` has a row for each sample and a column for each chosen one. The smallest
# entry of each row is `.amin(1)`; then the sum.
#
# </details>


# %% tags=["exercise"]
def my_cost(distances, chosen):
    """L(S), a number. distances: (n, n); chosen: a list with at least one index."""
    # >>> answer
    return distances[:, chosen].amin(1).sum()
    # >>> stub
    # return None
    # <<<


# %%
cost = my_cost if checks.check_4_1(my_cost) else checks.cost

# %% [markdown]
# ## One greedy step
#
# The best coreset of a given size is out of reach: there are too many subsets. So CRAIG is
# **greedy**. It adds the sample that lowers $L$ most, again and again:
#
# > "$j \in \arg\max_{e \in V\setminus S} F(S \cup \{e\}) - F(S)$" (Algorithm 2, line 4)
#
# $F(S)$ is by how much $L$ has fallen since nothing was chosen. Then nobody was served, and $L$
# stands for one large number. That number is the same for every candidate $e$, so the largest
# gain of $F$ is the smallest $L(S\cup\{e\})$, at the first step, too.
#
# ### Exercise 4.2
#
# Which sample comes next? Where several are equally good, the one with the lower index.
# `cost(distances, chosen)` is $L$, by your function if it is right. A sample that is chosen already
# gains nothing.
#
# <details><summary>Hint</summary>
#
# Try every sample e: `cost(distances, [*chosen, e])`. Python's `min(range(n), key=...)` gives the
# first of the smallest.
#
# </details>


# %% tags=["exercise"]
def my_next(distances, chosen):
    """The index of the sample to add to `chosen`, which may be empty."""
    # >>> answer
    return min(range(len(distances)), key=lambda e: float(cost(distances, [*chosen, e])))
    # >>> stub
    # return None
    # <<<


# %%
next_pick = my_next if checks.check_4_2(my_next) else checks.next_pick
course.predicted(prediction, int(next_pick(distances, [])), "CRAIG begins with sample")

# %% [markdown]
# Find that sample in the picture. With a single sample chosen, everyone is served by it. So the
# first pick is the one with the smallest sum of distances to all, the *medoid*. It lies in the
# largest cloud, on the side where the others are. The far sample pulls, but it is only one of
# fourteen.
#
# ## The weights
#
# A chosen sample speaks for all those that it serves, itself included. Its weight is their
# number:
#
# > "$\gamma_j = \sum_{i \in V} \mathbb{I}[j = \arg\min_{s \in S} \dots]$" (Algorithm 2, line 8,
# > shortened)
#
# $\mathbb{I}[\dots]$ is 1 where it is true, else 0.
#
# ### Exercise 4.3
#
# Count whom each chosen sample serves.
#
# <details><summary>Hint</summary>
#
# `distances[:, chosen].argmin(1)` says for each sample which column serves it.
# `torch.bincount(..., minlength=len(chosen))` counts.
#
# </details>


# %% tags=["exercise"]
def my_weights(distances, chosen):
    """How many samples each chosen one serves: a tensor (k,), in the order of `chosen`."""
    # >>> answer
    return torch.bincount(distances[:, chosen].argmin(1), minlength=len(chosen))
    # >>> stub
    # return None
    # <<<


# %%
weights = my_weights if checks.check_4_3(my_weights) else checks.cluster_sizes

# %% [markdown]
# ### Exercise 4.4
#
# Now the whole of Algorithm 2. Begin with nothing, and take one greedy step after the other until
# `budget` samples are chosen. A step is `next_pick(distances, chosen)`, yours if it is right.
#
# <details><summary>Hint</summary>
#
# `chosen = []`, then `budget` times `chosen.append(next_pick(distances, chosen))`.
#
# </details>


# %% tags=["exercise"]
def my_craig(distances, budget):
    """The samples that CRAIG picks, as a list in the order of picking."""
    # >>> answer
    chosen = []
    for _ in range(budget):
        chosen.append(next_pick(distances, chosen))
    return chosen
    # >>> stub
    # return None
    # <<<


# %%
craig = my_craig if checks.check_4_4(my_craig) else checks.greedy
course.show(selectors.plain_craig)

# %% [markdown]
# That is the library's `plain_craig`, with the paper's symbols. The loop and the `gamma` below it
# are what you wrote. The large number of above is there as well: at first a *phantom*, a sample
# that does not exist, serves everyone, from as far as any two samples are apart. There is more
# for real data: it can also stop once `L` is small (`epsilon`), and gains that differ by rounding
# alone count as equal (`slack`). The library's `craig` makes the same picks, much faster: it keeps
# the gains of all samples and corrects only those that a pick has changed.
#
# ## Watch it
#
# The slider walks through the picks. A star is the newest one, the number beside each chosen
# sample is its weight, lines join samples to who serves them. **Before you run the cell,** write
# down: at which pick will the far sample be chosen itself?

# %%
picks = craig(distances, 6)


def draw(axis, step):
    chosen = picks[:step]
    course.joined(axis, gradients, chosen, distances[:, chosen].argmin(1))
    axis.plot(*gradients[chosen].T, "s", color=course.ORANGE)
    axis.plot(*gradients[chosen[-1]], "k*", markersize=13)
    served = weights(distances, chosen).tolist()
    for j, weight in zip(chosen, served, strict=True):
        axis.annotate(f"   {weight}", gradients[j], fontsize=11, weight="bold")
    axis.set(aspect="equal", xlabel=f"L = {float(cost(distances, chosen)):.1f}")
    return f"chosen {chosen}, the last one a star, serving {served}, {axis.get_xlabel()}"


course.slider(draw, "picks", range(1, 7), [1, 2, 3, 4], width=2.8)

# %% [markdown]
# The clouds get a sample each, and the largest cloud the largest weight. The far sample waits
# until the fourth pick: nobody else gains when it is chosen.
#
# ### Exercise 4.5
#
# Take one sample that is not chosen yet. Its *gain* is by how much L falls if it is added now. As
# others are chosen before it, its gain
#
# (a) never grows; (b) never shrinks; (c) may do either.
#
# <details><summary>Hint</summary>
#
# A sample gains by serving others better than they are served now. How well are they served
# later?
#
# </details>

# %% tags=["exercise"]
# >>> answer
my_choice = "a"
# >>> stub
# my_choice = None  # "a", "b" or "c"
# <<<

# %%
right = checks.check_4_5(my_choice)

# %% [markdown]
# This property of $F$, *submodularity*, is what makes greedy good: $F$ of the greedy set is at
# least $1-1/e$, 63 %, of the best $F$ that any set of that size reaches. On fourteen points we
# can try all subsets and compare their $L$. Beside it we draw what the bound is for, the true
# error $\|\sum_{i\in V} g_i-\sum_{j\in S}\gamma_j g_j\|$.

# %%
best = [min(cost(distances, list(s)) for s in combinations(range(14), k)) for k in range(1, 6)]
ours = [float(cost(distances, picks[:k])) for k in range(1, 6)]
counts = [weights(distances, picks[:k]).double() for k in range(1, 6)]
sums = [w @ gradients[picks[:k]] for k, w in enumerate(counts, 1)]
error = [float((gradients.sum(0) - s).norm()) for s in sums]
lines = {"L of the greedy set, a bound": ours, "L of the best set": best, "true error": error}
course.curves(range(1, 6), lines, "samples chosen", "L and error")

# %% [markdown]
# Three things to see. Greedy is nearly as good as the best subset. The bound is loose: the true
# gradient error lies far below it, because the differences $g_i-g_j$ point in all directions and
# cancel. And the bound can fall while the error grows, as from three samples to four. CRAIG makes
# the *bound* small. Lesson 5 makes the error itself small.
#
# ## Real gradients
#
# Now 1,437 digits and a network that has been trained for a while against attacks. Its gradients
# are those of eq. (18). Training it and selecting takes a few seconds. Random subsets stand
# beside CRAIG's; each of their $k$ samples has the weight $n/k$.
#
# **Prediction.** With 10 % of the images, what is CRAIG's gradient error in percent of the full
# gradient? (100 % is what an empty coreset has.)

# %%
prediction = None  # your guess, in percent

# %%
real, train = course.real_gradients(), course.digits().train
shares = [0.02, 0.05, 0.1, 0.2, 0.5]
sizes = [int(share * len(train)) for share in shares]
errors = {
    "craig": [selectors.gradient_error(real, selectors.craig(real, k))[1] for k in sizes],
    "random": [course.random_error(real, k) for k in sizes],
}

# %%
percent = {name: [100 * value for value in values] for name, values in errors.items()}
course.curves([100 * s for s in shares], percent, "coreset, %", "gradient error, %", log=True)
course.predicted(prediction, percent["craig"][2], "CRAIG's error with 10 %", " %")
lengths = real.squared_norms().sqrt()
print(f"the gradients' lengths added up: {lengths.sum():.0f}; the length of their sum:", end=" ")
print(f"{real.total().norm():.0f}")

# %% [markdown]
# A random tenth of the images is no better than an empty coreset: its error is above 100 %. The
# two numbers say why. In the full sum the gradients cancel almost entirely, and in a random tenth
# they cancel less well. CRAIG's error is several times smaller at every size. Which images are
# they? Here are those with the largest weights, and how long their gradients are.

# %%
coreset = selectors.craig(real, sizes[2])
heaviest = coreset.weights.argsort(descending=True)[:7]
rows = coreset.indices[heaviest]
titles = [
    f"a {train.labels[i]}, γ = {int(w)},\nlength {lengths[i]:.1f}"
    for i, w in zip(rows, coreset.weights[heaviest], strict=True)
]
course.pictures(train.float_images(rows), titles)
print(f"The median length of all gradients is {lengths.median():.1f}.")

# %% [markdown]
# They are easy images: the network knows them. Their gradients are short, so they lie close
# together, and one can stand for dozens. The difficult images have long gradients, each in its
# own direction. CRAIG keeps many of those, each with a small weight.
#
# ## Quiz
#
# 1. What do CRAIG's weights add up to?
# 2. Why is the far sample picked late?
# 3. L(S) is 0. What does that say about the gradients?
# 4. All gradients become twice as long. What changes in the picks and in the weights?
#
# <details><summary>Answers</summary>
#
# 1. To n, the number of samples. Everyone is served once.
# 2. It lowers only its own distance. A sample in a cloud lowers many.
# 3. Every sample has the same gradient as the chosen one that serves it.
# 4. Nothing: all distances double, and their order stays.
#
# </details>
#
# **Next:** [Lesson 5](05_gradmatch.ipynb) goes for the error itself.
