"""Meta: params.json and one consolidated.NN.pth for each model-parallel rank."""
