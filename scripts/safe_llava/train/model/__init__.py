"""What a stage trains: the model, its loss, and the fast paths of both."""
