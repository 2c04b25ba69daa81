"""What `strategy="auto"` does at `train()`: tries strategies on a copy of the trainer, and chooses.

* `choose`: the whole of it, from the trainer to the verdict.
* `candidates`: which strategies and precisions are tried, in which order.
* `data`: batches of the run, read without moving its position.
* `randomness`: every random state, put back.
* `copies`: a trainer that can be copied, sent to another process and trained for a few steps.
* `tries`: a candidate's steps, timed and compared.
* `hosts`: the process that it happens in: one of its own, or this one.
* `verdict`: rows, the choice, the table.
* `store`: verdicts of earlier runs.
"""
