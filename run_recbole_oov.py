"""Train and test a model: ``python run_recbole_oov.py --model=OOVLLMRec`` (see ``--help``)."""

from recbole_oov.cli import entry

if __name__ == "__main__":
    entry()
