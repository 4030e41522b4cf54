"""What a run needs and costs on the machines it is given: checked before it, estimated before it, counted after it."""
