# %% [markdown]
# # Lesson 1. Adversarial examples
#
# **Afterwards you can** break an ordinary network on purpose, say what epsilon, steps and
# restarts do, write FGSM and PGD yourself, and tell an honest robust accuracy from a flattering
# one.
#
# **You need** Python, and to know what a gradient and a cross-entropy are. No attack, no coreset.
#
# **Minutes:** 50.
#
# How to work: write each *prediction* down before you run the cell below it. Each *exercise* has
# a stub for you to fill and a check that tells you how it went.

# %%
import checks
import course
import matplotlib.pyplot as plt
import torch
from torch.nn.functional import cross_entropy

from acslib.attacks import PGD
from acslib.attacks.pgd import project
from acslib.evaluation import robust_accuracy
from acslib.objectives import Vanilla

# %% [markdown]
# ## An ordinary network
#
# We train a small residual network on 8 x 8 pictures of digits, in the usual way: cross-entropy
# on the clean images. The paper calls this vanilla training:
#
# > "the function Φ is a simple evaluation of an appropriate loss function over the neural network
# > output" (section 2.1.1, eq. 2)
#
# Φ is what training makes small for an image. $f_\theta$ is the network with weights θ.

# %%
model = course.train(Vanilla(), course.size(10, 2)).model
images, labels = course.unseen()
clean = course.robust(model, 0)
print(f"{clean:.1f} % of {len(labels)} test images are right")

# %% [markdown]
# ## What an attacker may do
#
# > "adding well-crafted, imperceptible perturbations to their input can change their output"
# > (section 1)
#
# The attacker moves each pixel by at most **epsilon**. The largest change of any pixel is the
# $\ell_\infty$ distance. Pixels lie between 0 and 1. With epsilon 0.1 a pixel may move a tenth of
# the way from black to white. The attacker wants the largest loss:
#
# $$\max_{\tilde x}\ \mathcal L_{CE}(f_\theta(\tilde x), y)
# \quad\text{s.t.}\quad d(\tilde x, x)\le\varepsilon
# \qquad\text{(eq. 3)}$$
#
# $x$ is the image, $y$ its label, $\tilde x$ the changed image, $d$ the distance, and
# $\mathcal L_{CE}$ the cross-entropy. The share of images that are still right under attack is the
# **robust accuracy**.
#
# **Prediction.** How many percent of the test images will still be right when epsilon is 0.1?

# %%
prediction = None  # your guess, in percent

# %%
course.predicted(prediction, course.robust(model, 0.1), "Right at epsilon 0.1", " %")
attack = PGD("linf", epsilon=0.1, step=0.025, steps=20, generator=torch.Generator())
adversarial = attack(model, images, labels)
seen = model(images).argmax(1)
fooled = model(adversarial).argmax(1)
rows = ((seen == labels) & (fooled != labels)).nonzero().squeeze(1)[:7]
course.pictures(images[rows], [f"seen: {seen[i]}" for i in rows])
course.pictures(adversarial[rows] - images[rows], ["change"] * len(rows), limit=0.1)
course.pictures(adversarial[rows], [f"seen: {fooled[i]}" for i in rows])

# %% [markdown]
# You and I read the same digits in the upper and in the lower row. The network does not. The
# changes (purple darker, orange lighter) are small, but they are not noise: the attack chose each
# one.
#
# ### Exercise 1.1
#
# Two limits hold for every adversarial image: within `epsilon` of the image, and within [0, 1].
# Write the **projection**: the nearest point to `x` that keeps both.
#
# <details><summary>Hint</summary>
#
# `x.clamp(low, high)` takes tensors as limits, one for each pixel. Clamp twice.
#
# </details>


# %% tags=["exercise"]
def my_project(x, images, epsilon):
    """The nearest point to x (n, 1, H, W) within epsilon of the images and within [0, 1]."""
    # >>> answer
    return x.clamp(images - epsilon, images + epsilon).clamp(0, 1)
    # >>> stub
    # return None
    # <<<


# %%
projected = my_project if checks.check_1_1(my_project) else checks.projected
course.show(project)

# %% [markdown]
# ## One step: FGSM
#
# > "FGSM (Goodfellow et al., 2015) assumes that $d(\tilde{x}, x) = \|\tilde{x} - x\|_\infty$.
# > Using this $\ell_\infty$ assumption, the solution to Eq. (3) is computed using one iteration
# > of gradient ascent." (section 2.1.2)
#
# Near the image the loss is nearly linear in the pixels. A linear function grows most if *every*
# pixel moves by the whole epsilon, towards the sign of its slope.
#
# ### Exercise 1.2
#
# Take that one step, from the image itself. `projected(x, images, epsilon)` is your projection, or
# the right one as long as yours is not.
#
# <details><summary>Hint</summary>
#
# `x = images.clone().requires_grad_()`, then the summed loss, then `torch.autograd.grad(loss,
# x)[0]`.
#
# </details>


# %% tags=["exercise"]
def my_fgsm(model, images, labels, epsilon):
    """The images after one step of size epsilon along the sign of the gradient, in [0, 1]."""
    # >>> answer
    x = images.clone().requires_grad_()
    loss = cross_entropy(model(x), labels, reduction="sum")
    gradient = torch.autograd.grad(loss, x)[0]
    return projected(images + epsilon * gradient.sign(), images, epsilon)
    # >>> stub
    # return None
    # <<<


# %%
right = checks.check_1_2(my_fgsm)

# %% [markdown]
# ## Several steps: PGD
#
# > "several steps of projected gradient ascent is taken to solve Eq. (3)" (section 2.1.2)
#
# A network is not linear. After a small step the slope is another one, so we look again: a step
# of size `step`, a projection, and so on. This is projected gradient descent, PGD (uphill here).
#
# ### Exercise 1.3
#
# Write PGD. Begin at the images themselves. Take `steps` steps.
#
# <details><summary>Hint</summary>
#
# The body of `my_fgsm` in a loop, with two changes: the gradient is taken at the moved image, and
# the step is `step`, not `epsilon`.
#
# </details>


# %% tags=["exercise"]
def my_pgd(model, images, labels, epsilon, step, steps):
    """The images after `steps` projected steps along the sign of the gradient."""
    # >>> answer
    x = images.clone()
    for _ in range(steps):
        x.requires_grad_()
        loss = cross_entropy(model(x), labels, reduction="sum")
        gradient = torch.autograd.grad(loss, x)[0]
        x = projected(x.detach() + step * gradient.sign(), images, epsilon)
    return x
    # >>> stub
    # return None
    # <<<


# %%
right = checks.check_1_3(my_pgd)
course.show(PGD._climb, PGD._move)

# %% [markdown]
# The library's version is the same loop; `_move` is the step with its projection. It can also begin
# at a random point of the ball (`_begin`), and it knows a second norm. The second loop of `_climb`
# is for networks whose gradient is not a number somewhere.
#
# ## One step against many
#
# **Prediction.** At epsilon 0.1, how many percentage points lower is the accuracy under 20 steps
# than under 1 step of size epsilon?

# %%
prediction = None  # your guess, in points

# %%
epsilons = [0.0, 0.02, 0.05, 0.08, 0.1, 0.15, 0.2]
curves = {steps: [course.robust(model, e, steps=steps) for e in epsilons] for steps in (1, 3, 20)}
for (steps, curve), look in zip(curves.items(), course.LOOKS.values(), strict=False):
    plt.plot(epsilons, curve, label=f"steps: {steps}", **look)
plt.gca().set(xlabel="epsilon", ylabel="right, %", title="How large, and how many steps")
plt.legend()
plt.show()
gap = curves[1][4] - curves[20][4]
course.predicted(prediction, gap, "Lost from 1 step to 20", " points")

# %% [markdown]
# More steps never help the network. One step overestimates how robust it is, and most so where
# epsilon is neither tiny nor huge. **A robust accuracy without its epsilon, step size and number
# of steps means nothing.** A weak attack makes any network look strong.
#
# Look at single images now. The attack is run beforehand for each epsilon; the slider only draws.

# %%
ladder = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3]
rows = torch.arange(4)
attacked = {}
for e in ladder:
    attacked[e] = PGD("linf", e, e / 4, 20, random_start=False)(model, images[rows], labels[rows])


def draw(axis, epsilon):
    axis.imshow(torch.cat(list(attacked[epsilon][:, 0]), 1), cmap="gray_r", vmin=0, vmax=1)
    axis.set_xlabel("seen: " + "  ".join(str(int(k)) for k in model(attacked[epsilon]).argmax(1)))
    axis.set(xticks=[], yticks=[])


course.slider(draw, "epsilon", ladder, [0.0, 0.1, 0.3], height=1.5)

# %% [markdown]
# At which epsilon do *you* begin to hesitate? On 8 x 8 pixels 0.1 is honest and 0.3 is not: there
# the attacker changes what the picture shows. On CIFAR-10 the paper uses 8/255, about 0.03.
#
# ## Why restarts
#
# PGD climbs to *a* hill, which depends on where it starts. So evaluations start several times
# from random points. A sample counts as robust only if **no** start fools the network.
#
# ### Exercise 1.4
#
# `right[r, i]` says whether image i was still right after restart r. What is the robust accuracy?
#
# <details><summary>Hint</summary>
#
# `right.all(0)` looks along the restarts.
#
# </details>


# %% tags=["exercise"]
def my_share(right):
    """The robust accuracy, between 0 and 1. right: (restarts, n) booleans."""
    # >>> answer
    return right.all(0).float().mean()
    # >>> stub
    # return None
    # <<<


# %%
share = my_share if checks.check_1_4(my_share) else checks.robust_share

# %%
rights = []
for seed in range(course.size(20, 4)):
    start = torch.Generator().manual_seed(seed)
    attack = PGD("linf", 0.08, 0.04, 3, generator=start)
    rights.append(robust_accuracy(model, images, labels, attack)[1])
rights = torch.stack(rights)
counts = range(1, len(rights) + 1)
plt.plot(counts, [100 * float(share(rights[:r])) for r in counts], **course.LOOKS["gradmatch"])
plt.gca().set(xlabel="restarts", ylabel="right, %", title="3 steps, many starts (epsilon 0.08)")
plt.gca().xaxis.get_major_locator().set_params(integer=True)
plt.show()

# %% [markdown]
# The curve can only fall. It falls fast at first and then hardly. The paper evaluates with
# PGD-50-10: 50 steps, 10 restarts (appendix C). Our `robust_accuracy` stops with an image as soon
# as any step of any restart fools the network.
#
# ### Exercise 1.5
#
# How many gradients does PGD-50-10 cost for one image that is never fooled?
#
# <details><summary>Hint</summary>
#
# Every step of every restart is one pass forwards and one backwards.
#
# </details>

# %% tags=["exercise"]
# >>> answer
my_gradients = 500
# >>> stub
# my_gradients = None
# <<<

# %%
right = checks.check_1_5(my_gradients)

# %% [markdown]
# ## Quiz
#
# 1. A paper reports 60 % robust accuracy under FGSM. Is its network more robust than one with 50
#    % under PGD-50-10?
# 2. Why does FGSM use the sign of the gradient and not the gradient?
# 3. Somebody's accuracy under PGD is 40 % with one start and 55 % with ten. What happened?
# 4. What does an attack need to know about the network?
#
# <details><summary>Answers</summary>
#
# 1. Nobody can tell. The attacks differ, and the weaker one flatters.
# 2. Under a limit on each pixel, the best step for a linear loss moves every pixel by all it may.
#    Only the direction of each is open, and the sign gives it.
# 3. A mistake. More starts can only lower it, if every start counts against the network. Perhaps
#    the best restart was kept for the network instead of for the attacker.
# 4. Its gradients here, so its weights. There are attacks that need only its answers.
#
# </details>
#
# **Next:** [Lesson 2](02_adversarial_training.ipynb) trains a network that stands.
