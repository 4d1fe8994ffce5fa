-- ARGV: the number of items, from the first on, that the broker has. Gives 1, or nothing for an unknown batch.
if not go_on() then
  return false
end
-- Also who has nothing new to tell says that he is there.
call('HSET', batch, 'touched', now())
if tonumber(ARGV[1]) > number('accepted') then
  call('HSET', batch, 'accepted', ARGV[1])
  changed()
end
return 1
