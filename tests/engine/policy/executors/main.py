"""``python -m engine.process`` with the executors of this folder added; they need no torch."""

import sys
from pathlib import Path

import engine.executor
from engine.process import main

engine.executor.__path__.append(str(Path(__file__).parent))
sys.exit(main(ahead=()))
