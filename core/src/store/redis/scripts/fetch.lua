-- ARGV: bytes, entries at most, the place behind which nothing is wanted, then runs of ids, each its first and its last.
-- Gives the entries of these runs in their order, until they have so many bytes; one at least.
local left, most, enough = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local found = {}
for at = 4, #ARGV, 2 do
  local from, to = ARGV[at], ARGV[at + 1]
  while true do
    -- One at a time: nobody knows how large the next is.
    local entry = call('XRANGE', KEYS[2], from, to, 'COUNT', 1)[1]
    if not entry then
      break
    end
    found[#found + 1] = entry
    local id, fields = entry[1], entry[2]
    for field = 1, #fields, 2 do
      if fields[field] == 's' then
        left = left - #fields[field + 1]
      end
    end
    if left <= 0 or #found == most or tonumber(string.match(id, '%d+')) >= enough then
      return found
    end
    from = '(' .. id
  end
end
return found
