# %% [markdown]
# # Lesson 5. GradMatch: gradients that add up
#
# **Afterwards you can** run orthogonal matching pursuit by hand, say why all weights are fitted
# anew after each pick and why none may be negative, and compare GradMatch with CRAIG and with
# chance.
#
# **You need** [Lesson 3](03_last_layer_gradients.ipynb), least squares. [Lesson
# 4](04_craig.ipynb) for the comparison.
#
# **Minutes:** 55.

# %%
import checks
import course
import matplotlib.pyplot as plt
import torch
from scipy.optimize import nnls

from acslib import selectors

# %% [markdown]
# ## The idea
#
# CRAIG made a bound small. GradMatch goes for the error itself:
#
# > "it achieves a lower error compared to CRAIG that only minimizes an upper-bound" (appendix
# > A.2)
#
# The sum of all gradients is the **target**. We look for a few samples and weights that reach it:
#
# $$\Big\|\sum_{i\in V} g_i - \sum_{j\in S}\gamma_j g_j\Big\|\qquad\text{(eqs. 12 and A1)}$$
#
# $V$ is all training samples, $S$ the chosen ones, $g_i$ the gradient of sample $i$.
#
# The method is *orthogonal matching pursuit* (Algorithm 3). It keeps what is still **missing** of
# the target, and repeats three steps: score every sample against what is missing, pick the best,
# fit all weights anew.
#
# ## Eight gradients with three entries
#
# Grey arrows are the samples' gradients. The black one is their sum, the target.

# %%
gradients = checks.arrows()
target = gradients.sum(0)

# %%
figure = plt.figure(figsize=(4, 4))
axis = figure.add_subplot(projection="3d", title="Eight gradients, and their sum in black")
course.arrows(axis, gradients)
plt.show()
print("target:", [round(float(v), 2) for v in target])
print(gradients)

# %% [markdown]
# ### Exercise 5.1
#
# At first all of the target is missing. Score every sample: the inner product of its gradient
# with what is missing.
#
# <details><summary>Hint</summary>
#
# A matrix times a vector.
#
# </details>


# %% tags=["exercise"]
def my_scores(gradients, missing):
    """<g_i, missing> for every sample, (n,). gradients: (n, d), missing: (d,)."""
    # >>> answer
    return gradients @ missing
    # >>> stub
    # return None
    # <<<


# %%
scores = my_scores if checks.check_5_1(my_scores) else checks.scores

# %% [markdown]
# ### Exercise 5.2
#
# The picked samples get the weights with which their sum comes nearest to the target. That is
# least squares, for all of them together:
#
# > "$\bar\gamma[S] \leftarrow \arg\min_{\bar\gamma:\ \mathrm{supp}(\bar\gamma)\subseteq S}
# > \Gamma(V, \bar\gamma, \theta)$" (Algorithm 3, line 7)
#
# $\Gamma$ is the length above, and the condition says that only chosen samples have weights.
#
# <details><summary>Hint</summary>
#
# `torch.linalg.lstsq(A, b).solution` solves $\min\|Ax-b\|$. The columns of A are the chosen
# gradients, `gradients[chosen].T`. b needs a second dimension: `target[:, None]`.
#
# </details>


# %% tags=["exercise"]
def my_refit(gradients, target, chosen):
    """The least-squares weights of the chosen samples, (k,). chosen: a list of indices."""
    # >>> answer
    return torch.linalg.lstsq(gradients[chosen].T, target[:, None]).solution[:, 0]
    # >>> stub
    # return None
    # <<<


# %%
refit = my_refit if checks.check_5_2(my_refit) else checks.refit

# %% [markdown]
# ## Pick after pick, as Algorithm 3 is printed
#
# > "$j \in \arg\max_{i\in V} |r_i|$" (Algorithm 3, line 5)
#
# $r_i$ is the score. The printed algorithm takes its size and forgets its sign.
#
# **Prediction.** In three dimensions, how many picks does it take until nothing is missing?

# %%
prediction = None  # a number of picks

# %%
chosen, missing, states = [], target, []
while missing.norm() > 1e-6 * target.norm():
    found = scores(gradients, missing).abs()
    found[chosen] = 0
    chosen.append(int(found.argmax()))
    weights = refit(gradients, target, chosen)
    missing = target - weights @ gradients[chosen]
    states.append((list(chosen), weights))
    rounded = [round(float(w), 2) for w in weights]
    print(f"picks {chosen}, weights {rounded}, missing {float(missing.norm()):.2f}")
course.predicted(prediction, len(chosen), "Picks until nothing is missing")

# %% [markdown]
# Three arrows that do not lie in a plane reach every point of space, so three are enough. But
# look at the weights: the third one is **negative**. In the picture the third blue arrow is
# walked backwards.


# %%
def draw(axis, step):
    course.arrows(axis, gradients, *states[step - 1])
    axis.set_xlabel("γ: " + ", ".join(f"{float(w):.1f}" for w in states[step - 1][1]))


course.slider(draw, "picks", [1, 2, 3], height=3.4, projection="3d")

# %% [markdown]
# The dotted line is what is missing. After each refit it is perpendicular to all blue arrows:
# that is what least squares means, and the *orthogonal* in the name. A picked sample cannot be
# picked again, because its score is now 0.
#
# ## Signs
#
# What would a negative weight do in training? The paper trains on
#
# $$\min_\theta\sum_{j\in S}\gamma_j\,\Phi(f_\theta; x_j, y_j)\qquad\text{(eqs. 13 and 23)}$$
#
# With a negative weight the network would be *rewarded* for getting that sample wrong. So our
# weights are at least 0.
#
# ### Exercise 5.3
#
# Least squares with weights of at least 0.
#
# <details><summary>Hint</summary>
#
# `scipy.optimize.nnls(A, b)` takes numpy arrays and gives the weights first:
# `nnls(gradients[chosen].T.numpy(), target.numpy())[0]`. Turn them into a tensor with
# `torch.from_numpy`.
#
# </details>


# %% tags=["exercise"]
def my_positive_refit(gradients, target, chosen):
    """The weights >= 0 of the chosen samples that come nearest to the target, (k,)."""
    # >>> answer
    return torch.from_numpy(nnls(gradients[chosen].T.numpy(), target.numpy())[0])
    # >>> stub
    # return None
    # <<<


# %%
right = checks.check_5_3(my_positive_refit)
positive_refit = my_positive_refit if right else checks.refit_nonnegative

# %% [markdown]
# ### Exercise 5.4
#
# Now the whole pursuit, with `budget` picks. Two changes against the loop before "Signs": pick the
# largest *signed* score (a sample that points away from what is missing cannot help with a weight
# of at least 0), and refit with `positive_refit`. `scores` and `positive_refit` are yours, or the
# right ones as long as yours are not.
#
# <details><summary>Hint</summary>
#
# Begin with `chosen, missing = [], gradients.sum(0)`. Before each `argmax`, set the scores of
# chosen samples to `-torch.inf`.
#
# </details>


# %% tags=["exercise"]
def my_pursuit(gradients, budget):
    """The picks, a list, and their weights >= 0, a tensor. gradients: (n, d)."""
    # >>> answer
    target = gradients.sum(0)
    chosen, missing = [], target
    for _ in range(budget):
        found = scores(gradients, missing)
        found[chosen] = -torch.inf
        chosen.append(int(found.argmax()))
        weights = positive_refit(gradients, target, chosen)
        missing = target - weights @ gradients[chosen]
    return chosen, weights
    # >>> stub
    # return None
    # <<<


# %%
pursuit = my_pursuit if checks.check_5_4(my_pursuit) else checks.pursuit
picks, weights = pursuit(gradients, 3)
found = selectors.gradmatch(gradients, 3)
course.show(selectors.plain_gradmatch)
print("picks", picks, "weights", [round(float(w), 2) for w in weights])
print("the library's:", found.picks.tolist(), [round(w, 2) for w in found.weights.tolist()])
figure = plt.figure(figsize=(4, 4))
axis = figure.add_subplot(projection="3d", title="Three picks, all forwards, reach the target")
course.arrows(axis, gradients, picks, weights)
plt.show()

# %% [markdown]
# Another third sample, no step backwards, and the target is reached again. (The library lists
# weights by the samples' indices, yours come in the order of picking.) `plain_gradmatch` is
# Algorithm 3 with the paper's symbols; `gradmatch` does the same on the factors of Lesson 3, much
# faster.
#
# ## For real
#
# The last-layer gradients of 1,437 attacked digits, as in Lesson 4.
#
# **Prediction.** With 10 % of the images CRAIG's error was about a fifth of the full gradient.
# And GradMatch's?

# %%
prediction = None  # your guess, in percent

# %%
real, train = course.real_gradients(), course.digits().train
sizes = [int(share * len(train)) for share in (0.02, 0.05, 0.1, 0.2, 0.5)]
methods = {"gradmatch": selectors.gradmatch, "craig": selectors.craig, "random": selectors.random}
coresets = {name: [select(real, k) for k in sizes] for name, select in methods.items()}
errors = {
    name: [100 * selectors.gradient_error(real, found)[1] for found in row]
    for name, row in coresets.items()
}
course.curves([2, 5, 10, 20, 50], errors, "coreset, %", "gradient error, %", log=True)
course.predicted(prediction, errors["gradmatch"][2], "GradMatch's error with 10 %", " %")

# %% [markdown]
# GradMatch's error is far below CRAIG's, as appendix A.2 says, and soon it vanishes. A gradient
# of this small network has 10 · 17 entries (10 classes, 16 features and a bias). Once the chosen
# gradients span all their directions, nothing is missing, and the pursuit ends before the budget
# is used. In the paper's networks a gradient has thousands of entries, and that does not happen.
#
# ## What the weights look like
#
# A coreset of 100 samples in which ten have all the weight is a coreset of ten. **Kish's
# effective share** measures that: $(\sum\gamma)^2 / (k\sum\gamma^2)$.
#
# ### Exercise 5.5
#
# Write it.
#
# <details><summary>Hint</summary>
#
# `weights.sum() ** 2`, `weights.square().sum()`, `len(weights)`.
#
# </details>


# %% tags=["exercise"]
def my_share(weights):
    """The effective share of the samples, between 1 / k and 1. weights: (k,)."""
    # >>> answer
    return weights.sum() ** 2 / (len(weights) * weights.square().sum())
    # >>> stub
    # return None
    # <<<


# %%
share = my_share if checks.check_5_5(my_share) else checks.effective_share
bins = torch.logspace(-1.5, 2, 24).tolist()
for name, colour in (("gradmatch", course.BLUE), ("craig", course.ORANGE)):
    values = coresets[name][2].weights
    text = f"{name}: effective share {float(share(values)):.2f}"
    plt.hist(values.tolist(), bins, histtype="step", linewidth=2, color=colour, label=text)
plt.xscale("log")
plt.gca().set(xlabel="weight in a coreset of 10 %", ylabel="samples", ylim=(0, 50))
plt.legend(loc="upper left")
plt.show()

# %% [markdown]
# CRAIG's weights are whole numbers, from 1 to dozens. Remember the share when you compare "10 %"
# with "10 %": a random subset has all its weights equal.
#
# ## Quiz
#
# 1. Why are all weights fitted anew after each pick?
# 2. Why may a sample with a negative score not be picked?
# 3. The error falls to 0 long before the budget is used. What does that say?
# 4. Which of the two, CRAIG or GradMatch, has weights that add up to n?
#
# <details><summary>Answers</summary>
#
# 1. Chosen gradients overlap. A new one takes over work from the others.
# 2. With a weight of at least 0 it would lead away from the target.
# 3. The gradients span fewer directions than the budget. Further samples add nothing to eq. (12);
#    they may still be good to train on.
# 4. CRAIG, always. GradMatch's weights add up to whatever fits.
#
# </details>
#
# **Next:** [Lesson 6](06_algorithm_1.ipynb) puts the coreset into the training loop.
