"""The compile explorer: data of each pane as JSON values, and the page that shows them."""
