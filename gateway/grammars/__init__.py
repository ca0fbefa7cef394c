"""What requests say of the form of their answers: checked, made a grammar, and tried in a process of its own."""
