"""Print what the checks find in the files that are named, or in all: `python -m tests.support.prose [FILE ...]`."""

import sys
from pathlib import Path
from statistics import mean

from tests.support.prose import checks
from tests.support.prose.grammar import grammar
from tests.support.prose.text import CHAPTERS, DOCUMENTS, SOLUTIONS, lengths, read

paths = [Path(name).resolve() for name in sys.argv[1:]] or DOCUMENTS + CHAPTERS + SOLUTIONS
texts = [read(path) for path in paths]
problems = [problem for text in texts for check in checks.of(text) for problem in check(text)] + list(grammar(texts))
print(*problems, sep="\n")
for text in texts:
    counts = lengths(text)
    print(f"{text.name}: {len(counts)} sentences, mean {mean(counts or [0]):.1f} words, at most {max(counts or [0])}")
sys.exit(bool(problems))
