"""What Azure and S3 share: how many requests are under way, in which order, and in which process."""
