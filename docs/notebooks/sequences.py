# %% [markdown]
"""# sequences"""

# %%
print(1)
