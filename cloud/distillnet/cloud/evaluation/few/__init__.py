"""Ten labelled pictures of each event and a heap that nobody labelled: `make eval-few`."""
