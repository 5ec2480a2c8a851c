"""The attack: loads under faults, drawn from a seed, each compared with what is right.

    make faults CASES=10000 SEED=1             # resumable: what .faults/SEED.jsonl has is not done again
    make faults SEED=1 CASE=4711               # one case again

A case is a connector, a mode, a fault, a source, a moment and a way to run and to retry. `cases` draws it, `targets`
has the servers and what breaks on the way to them, `loading` runs it as users would, `checks` says what is wrong.
"""
