from franca.models.model import Features, FrancaModel, load_model, random_model, random_twin, save_model

__all__ = ["Features", "FrancaModel", "load_model", "random_model", "random_twin", "save_model"]
