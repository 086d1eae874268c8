"""The data of a recipe as a task reads them, in one call each."""


def examples_of(task, data, split, train=False):
    """The examples of a split."""
    return task.examples(task.open(data, split, train), train, data.get("seed", 0))


def fitted_to(task, data):
    """The task with what the training and the evaluation split know."""
    evaluation = task.open(data, data["eval_split"]) if data["eval_split"] else None
    return task.fitted_to(task.open(data, data["train_split"], train=True), evaluation)
