"""The tools around a run: encode, describe, doctor, export, push, from-csv. Each command is a module of its own."""
