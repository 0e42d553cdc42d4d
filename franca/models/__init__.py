from franca.models.model import Features, FrancaModel, load_model, random_model, save_model

__all__ = ["Features", "FrancaModel", "load_model", "random_model", "save_model"]
