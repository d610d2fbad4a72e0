"""`cachegen demo`: the main job on a document, in processes of its own, over a shaped link."""
