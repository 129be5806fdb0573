"""What several tests share: data, models, stand-ins."""
