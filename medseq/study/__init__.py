"""Hundreds of series overnight: a plan that people can edit, units that cannot hurt each other, and a ledger.

    STUDY/study.yaml            the manifest: what is to be done (`manifest`, made by `plan`)
    STUDY/results/UNIT/         what became of a unit; appears in one rename, complete and with its `unit.json`
    STUDY/ledger/UNIT.json      the last word on a unit, a failure's reason among it (`ledger`)
    STUDY/.work/RUN/            temporary files of a run; while it is there, the run goes on (`lease`)
    STUDY/.lock                 held by the run that works on the study

A unit is one command of medseq in a process of its own (`child`, `unit`), sent out by Dask (`engine`, `run`).
Whatever stops a run, and wherever, the same command goes on from there. Needed is one file system that every machine
sees at the same path.
"""
