"""Meta-learning of recommenders (G-Meta): episodes, MAML, models, evaluation."""
