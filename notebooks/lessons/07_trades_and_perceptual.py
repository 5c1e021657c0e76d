# %% [markdown]
# # Lesson 7. Other objectives: TRADES and perceptual attacks
#
# **Afterwards you can** write the TRADES loss and its three gradient terms, say why its
# cross-entropy form can collapse, measure a perceptual distance, and see why one coreset method
# serves them all.
#
# **You need** [Lesson 3](03_last_layer_gradients.ipynb) and [Lesson 6](06_algorithm_1.ipynb).
#
# **Minutes:** 55.

# %%
import checks
import course
import torch
from torch.nn.functional import cross_entropy

from acslib.attacks import PGD
from acslib.attacks.lpips import LPIPS
from acslib.attacks.perceptual import FastLPA
from acslib.objectives import AdversarialTraining, Trades, Vanilla
from acslib.paper import theory

# %% [markdown]
# ## TRADES
#
# PGD training asks the network to be right on the attacked image. TRADES asks for two things: be
# right on the clean image, and **do not change your mind** under attack.
#
# > "The intuition behind TRADES (Zhang et al., 2019) is creating a trade-off between clean and
# > robust accuracy." (section 2.1.3)
#
# $$\Phi = \mathcal L_{CE}(f(x), y) +
# \tfrac1\lambda\max_{\tilde x}\mathcal L_{CE}(f(\tilde x), f(x))
# \qquad\text{(eq. 4)}$$
#
# The second term compares two predictions. The label does not occur in it. We write $\beta$ for
# $1/\lambda$; 6 is usual.
#
# ### Exercise 7.1
#
# Eq. (4) for each sample, from the logits of the clean and of the attacked image.
#
# <details><summary>Hint</summary>
#
# `cross_entropy(logits, target, reduction="none")` takes probabilities as the target, too:
# `clean.softmax(1)`.
#
# </details>


# %% tags=["exercise"]
def my_trades(clean, moved, labels, beta):
    """Eq. (4) for each sample, (n,). clean, moved: logits (n, C) before and after the attack."""
    # >>> answer
    distance = cross_entropy(moved, clean.softmax(1), reduction="none")
    return cross_entropy(clean, labels, reduction="none") + beta * distance
    # >>> stub
    # return None
    # <<<


# %%
trades = my_trades if checks.check_7_1(my_trades) else checks.trades_loss
course.show(Trades.loss)

# %% [markdown]
# ## Three terms
#
# For the coreset we need the gradient. The clean prediction occurs twice in eq. (4), once as the
# *target* of the second term. So it moves, too:
#
# > "where freeze(·) stops the gradients from backpropagating through its argument function"
# > (section 3.3.2, eq. 22)
#
# 1. the clean cross-entropy: error $p - y$, features of the clean image;
# 2. through the attacked image, the target frozen: error $\beta(q - p)$, features of the
#    *attacked* image;
# 3. through the target, the attacked image frozen: features of the clean image again.
#
# $p$ and $q$ are the two predictions as probabilities. The error of the third term is left to
# you. With the surprise $s = -\log q$ the cross-entropy is $\sum_c p_c s_c$, and $p$ depends on
# the clean logits.
#
# ### Exercise 7.2
#
# The gradient of $\sum_c p_c s_c$ with respect to the clean logits.
#
# <details><summary>Hint</summary>
#
# For a softmax $\partial p_c/\partial z_d = p_c(1_{c=d} - p_d)$. So the gradient is $p_d\,(s_d -
# \sum_c p_c s_c)$.
#
# </details>


# %% tags=["exercise"]
def my_target_errors(clean, moved):
    """The gradient of CE(moved, softmax(clean)) with respect to the clean logits, (n, C)."""
    # >>> answer
    p, surprise = clean.softmax(1), -moved.log_softmax(1)
    return p * (surprise - (p * surprise).sum(1, keepdim=True))
    # >>> stub
    # return None
    # <<<


# %%
right = checks.check_7_2(my_target_errors)
course.show(Trades.gradients)

# %% [markdown]
# Do the parts add up? The library's `trades_split` takes the second gradient of eq. (20) whole
# and in its two parts, for all weights of a network (eq. B4). **Before you run it:** which part
# do you expect to be larger on a fresh network?

# %%
attack = PGD("linf", 0.1, 0.04, 4, generator=torch.Generator().manual_seed(0))
x, y = course.unseen(40)
fresh = course.network().eval()
moved = Trades(attack).perturb(fresh, x, y)
whole, through_attacked, through_target = theory.trades_split(fresh, x, moved)
gap = float((whole - through_attacked - through_target).norm() / whole.norm())
print(f"whole minus its parts: {gap:.1e} of the whole")
print(f"through the attacked image {float(through_attacked.norm()):.3f},")
print(f"through the target         {float(through_target.norm()):.3f}")

# %% [markdown]
# ## A trap in eq. (4)
#
# The cross-entropy of two predictions is their divergence plus the *entropy* of the target:
# $\mathcal L_{CE}(q, p) = KL(p\,\|\,q) + H(p)$. TRADES' own code has the divergence alone. Eq.
# (4) has the entropy too, times $\beta$. The entropy is small if the network is **sure**, rightly
# or wrongly.
#
# Take the laziest network: it says the same for every image, one class with confidence $c$, the
# others $(1-c)/9$ each. No attack can change its mind.
#
# ### Exercise 7.3
#
# Its value of eq. (4), with ten equally frequent classes. `form` is `"ce"` (with the entropy) or
# `"kl"` (without).
#
# <details><summary>Hint</summary>
#
# With r = (1 − c)/9 the clean part is −0.1 log c − 0.9 log r, and the entropy −c log c − 9 r log
# r.
#
# </details>


# %% tags=["exercise"]
def my_constant_loss(confidence, beta, form):
    """Eq. (4) of the constant prediction. confidence: a tensor of numbers in (0, 1)."""
    # >>> answer
    rest = (1 - confidence) / 9
    clean = -0.1 * confidence.log() - 0.9 * rest.log()
    entropy = -confidence * confidence.log() - 9 * rest * rest.log()
    return clean + beta * entropy if form == "ce" else clean
    # >>> stub
    # return None
    # <<<


# %%
constant_loss = my_constant_loss if checks.check_7_3(my_constant_loss) else checks.constant_loss
confidences = torch.linspace(0.02, 0.995, 200)


def draw(axis, beta):
    for form, style, colour in (("ce", "-", course.ORANGE), ("kl", "--", course.BLUE)):
        axis.plot(
            confidences, constant_loss(confidences, beta, form), style, color=colour, label=form
        )
    axis.set(xlabel="confidence in one class", ylim=(0, 20), ylabel="eq. (4)")
    axis.legend()


course.slider(draw, "beta", [0, 0.5, 1, 2, 4, 6], [0, 1, 6])

# %% [markdown]
# An untrained network begins near confidence 0.1. In the divergence form that is the best a
# constant prediction can do: to get lower, the network must *learn*. In the cross-entropy form
# with $\beta = 6$ it stands on a peak, and the quick way down is to say one class for everything.
#
# **Prediction.** We train both forms for a few epochs. How many percent of the clean images will
# the cross-entropy form get right?

# %%
prediction = None  # your guess, in percent

# %%
finished = {}
for form in ("ce", "kl"):
    objective = Trades(attack, beta=6.0, form=form)
    finished[form] = course.train(objective, course.size(10, 1)).model
for form, net in finished.items():
    counts = net(course.unseen()[0]).argmax(1).bincount(minlength=10).tolist()
    print(f"{form}: clean {course.robust(net, 0):.1f} %, under attack {course.robust(net):.1f} %")
    print(f"    predicted as 0, 1, ..., 9: {counts}")
course.predicted(prediction, course.robust(finished["ce"], 0), "The cross-entropy form gets", " %")

# %% [markdown]
# Look at what each network predicts. The first one has one large number: it fell into the trap.
# The paper prints eq. (4) with the cross-entropy, TRADES' own code has the divergence. Both are
# in the library (`form`).
#
# ## Distances that see
#
# A limit on each pixel misses much of what looks alike to us, and allows some of what does not.
# Perceptual adversarial training replaces the distance:
#
# > "$\ell_p$ norms can only capture a small portion of images similar to the clean one" (section
# > 4.2)
#
# LPIPS compares what a network *sees* in two images: its feature maps. At each position of a map
# the channels are a vector, which is divided by its length. Each map is divided by $\sqrt{HW}$.
# All are joined, and the distance is the Euclidean one.
#
# ### Exercise 7.4
#
# Write it. Each argument is a list of maps (n, c, H, W), one for each layer.
#
# <details><summary>Hint</summary>
#
# `maps / (maps.norm(dim=1, keepdim=True) + 1e-10)`, then `.flatten(1) / (H * W) ** 0.5`, for both
# lists; `torch.cat(..., 1)`; the norm of the difference over dim 1.
#
# </details>


# %% tags=["exercise"]
def my_distance(first, second):
    """The unweighted LPIPS distance of each image, (n,), from two lists of feature maps."""

    # >>> answer
    def embed(layers):
        units = [maps / (maps.norm(dim=1, keepdim=True) + 1e-10) for maps in layers]
        return torch.cat([u.flatten(1) / (u.shape[2] * u.shape[3]) ** 0.5 for u in units], 1)

    return (embed(first) - embed(second)).norm(dim=1)
    # >>> stub
    # return None
    # <<<


# %%
right = checks.check_7_4(my_distance)
course.show(LPIPS.embed)

# %% [markdown]
# Now two attacks on one network that was trained against the $\ell_\infty$ one. Fast-LPA goes for
# a large margin of a wrong class and pays a price once the perceptual distance exceeds its bound.
#
# **Before you look:** which of the two changes pixels more?

# %%
sturdy = course.train(AdversarialTraining(attack), course.size(10, 1)).model
ordinary = course.train(Vanilla(), course.size(8, 1)).model
x, y = course.unseen(7)
distance = LPIPS(ordinary)
perceptual = FastLPA(0.2, distance, iterations=10, generator=torch.Generator().manual_seed(0))
by_pixels, by_sight = attack(sturdy, x, y), perceptual(sturdy, x, y)
for moved, name in ((x, "clean"), (by_pixels, "PGD"), (by_sight, "LPA")):
    seen = sturdy(moved).argmax(1)
    course.pictures(moved, [f"{name}: {k}" for k in seen])
    change, lpips = (moved - x).abs().amax((1, 2, 3)).mean(), distance(moved, x).mean()
    print(f"{name}: largest change of a pixel {float(change):.2f}, LPIPS {lpips.item():.2f}")

# %% [markdown]
# The two measures do not agree on what is near. (Fast-LPA pays for going beyond its bound but is
# not held back, so its images may lie outside.) A network that holds against one attack need not
# hold against another: the paper tests perceptual training against attacks that it has not seen
# (Table 2). 8 × 8 digits are hardly what LPIPS was made for; here it uses the features of an
# ordinary network in place of AlexNet.

# %%
images, labels = course.unseen(course.size(200, 40))


def right_under(net, bound):
    """Percent of images that `net` still gets right under Fast-LPA with this bound."""
    attack_of = FastLPA(bound, distance, generator=torch.Generator().manual_seed(0))
    return 100 * float((net(attack_of(net, images, labels)).argmax(1) == labels).float().mean())


bounds = course.size([0.1, 0.2, 0.4, 0.8], [0.2])
networks = {"no attacks in training": ordinary, "trained against linf": sturdy}
lines = {name: [right_under(net, b) for b in bounds] for name, net in networks.items()}
course.curves(bounds, lines, "bound of Fast-LPA on LPIPS", "right, %")

# %% [markdown]
# ### Exercise 7.5
#
# You want coresets for a new objective: an attack that rotates images, and cross-entropy on what it
# gives. What must you write?
#
# (a) a new greedy solver; (b) the attack alone; (c) a new schedule.
#
# <details><summary>Hint</summary>
#
# Which lines of `my_training` in Lesson 6 knew about the objective? What does `AdversarialTraining`
# of Lesson 2 take, and which loss does it have?
#
# </details>

# %% tags=["exercise"]
# >>> answer
my_choice = "b"
# >>> stub
# my_choice = None  # "a", "b" or "c"
# <<<

# %%
right = checks.check_7_5(my_choice)

# %% [markdown]
# ## Quiz
#
# 1. Why does the attack of TRADES not need the label?
# 2. Which features does the second term of eq. (22) use?
# 3. A network says "7" for everything. How large is the second term of eq. (4) in either form?
# 4. Why is a network's perceptual robustness always relative to another network?
#
# <details><summary>Answers</summary>
#
# 1. It moves the prediction away from the clean prediction, whatever that is.
# 2. Those of the attacked image.
# 3. The divergence is 0. The cross-entropy is the entropy of the prediction, near 0 if it is
#    sure.
# 4. LPIPS measures in the features of some network. Another network sees other distances.
#
# </details>
#
# **Next:** [Lesson 8](08_theorem_1.ipynb) asks what can be proved.
