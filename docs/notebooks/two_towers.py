# %% [markdown]
"""# two_towers"""

# %%
print(1)
