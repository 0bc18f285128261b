"""What is done with a trained ensemble: it is loaded, predicts new images, and is exported."""
