-- ARGV: the index, its page, its bit in the page. Gives 1 where it was dead and has no outcome now, 0 where not, nothing
-- for an unknown batch. It stays among the dead until it has another outcome: whoever was to publish it may have been
-- killed before that.
if not go_on() then
  return false
end
if not call('ZSCORE', base .. 'dead', ARGV[1]) then
  return 0
end
if call('SADD', base .. 'reviving', ARGV[1]) == 0 then
  return 1
end
call('SETBIT', base .. 'bits:' .. ARGV[2], ARGV[3], 0)
call('HINCRBY', base .. 'revived', ARGV[1], 1)
call('HINCRBY', batch, 'dead', -1)
if call('HDEL', batch, 'completed') == 1 then
  each_key(function(key) call('PERSIST', key) end)
end
changed()
return 1
