"""The parts models are built from. They know nothing of the scheduler; a layer's weights are declared beside it."""
