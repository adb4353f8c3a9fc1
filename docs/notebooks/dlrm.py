# %% [markdown]
"""# dlrm"""

# %%
print(1)
